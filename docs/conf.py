"""Build the documentation: `make docs`. Needs no network, and loads nothing from one when read."""

project = "django_taskq"
author = "The django_taskq contributors"
copyright = author  # the name that Sphinx wants

extensions = ["myst_parser"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "django_taskq"
html_static_path = ["_static"]
html_show_sphinx = False
html_copy_source = False

# Ids for headings, so that pages can link into one another.
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

# Every broken reference is reported; -W makes it an error.
nitpicky = True

pygments_style = "default"
pygments_dark_style = "monokai"
