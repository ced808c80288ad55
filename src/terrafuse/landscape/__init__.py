"""A synthetic place with three sensors and known truth, for the demo and for tests.

A river with tributaries and a lake, reed beds, forest, a mosaic of fields, a town with villages and
roads, all drawn from a seed; every scene is another place. The classes differ as follows:

| class | surface | optical (10 m) | SAR VV, VH (20 m) | surface model (10 m) |
|---|---|---|---|---|
| water | lake, river | dark | darkest | level |
| wetland | flooded reed | green | VV bright: double bounce | level |
| arable | crop in leaf | green | bright | level |
| arable | seedbed | brown | dark | level |
| grassland | short sward | green | dark | level |
| grassland | dry tussocks | brown | bright | level |
| forest | high wood | dark green | brightest VH | 12–22 m |
| forest | thicket | green | bright, as a crop | 5–8 m |
| buildings | roof | brown | dark to very bright, by orientation | 6–16 m |
| (void) | road, street | grey | dark | level |

With `synergy` most fields carry two more classes:

| class | surface | optical (10 m) | SAR VV, VH (20 m) | surface model (10 m) |
|---|---|---|---|---|
| wheat | in shoot | lush green | bright | level |
| wheat | ripe | yellow | dark | level |
| rape | rosettes | lush green | dark | level |
| rape | in flower | yellow | bright | level |

- Arable and grassland are an exclusive or: green and brown, bright and dark are equally frequent in
  both, and only their combination separates the two.
- Wetland looks like sward in the optical image and like buildings in the SAR image.
- Roofs have the colours of soil, and thicket looks like a crop to both sensors: only the surface
  model separates them.
- Wheat and rape are an exclusive or too, and a purer one: no other surface has their colours, and
  their location is uninformative, whereas arable land keeps to level ground. A parcel is lush or
  yellow, dark or bright, by two independent coin tosses; the class is their exclusive or.
- Clouds hide part of the optical image and shade another part; SAR and the surface model are not
  affected. In every second scene thick cloud is blanked (nodata 0).

Further exclusive-or classes need rows in `surfaces.SURFACES` that share palettes and backscatter,
and a few lines in `cover._choose_crops`.
"""

from terrafuse.landscape.scenes import make_landscape
from terrafuse.landscape.surfaces import class_scheme

__all__ = ["class_scheme", "make_landscape"]
