"""Entry point of `python -m terrafuse`, as launchers like torchrun and SLURM's srun start it."""

from terrafuse.cli import main

if __name__ == "__main__":
    main()
