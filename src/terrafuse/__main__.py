"""`python -m terrafuse`, which launchers like torchrun and SLURM's srun start."""

from terrafuse.cli import main

if __name__ == "__main__":
    main()
