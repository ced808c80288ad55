"""Python lines of a user, for type checkers; the last two are mistakes."""

USER = """\
import terrafuse
from terrafuse import Manifest, Modality, Segmenter, create_segmenter, load_manifest

run = terrafuse.load("runs/flood")
products = run.predict("maps/new", rasters={"s1": "new_s1.tif", "s2": "new_s2.tif"})
reveal_type(run)
reveal_type(products.class_map)
manifest: Manifest = load_manifest("dataset.yaml")
model: Segmenter = create_segmenter("single", [Modality("s1", ("VV",))], 2)
reveal_type(manifest.scene("0001").grid.height)
terrafuse.lod("runs/flood")
terrafuse.load(7)
"""
