"""Try the built package as its users get it: `python -m tests.packaging DIRECTORY`.

Nothing of the checkout is on the path of what is tried. `make package` runs all of it.
"""
