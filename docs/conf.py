"""How the documentation is built: make docs. Nothing is fetched from elsewhere."""

import shutil
import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

# The tutorials are the notebooks as they were executed; a build runs nothing.
TUTORIALS = HERE / "tutorials"
TUTORIALS.mkdir(exist_ok=True)
for _old in TUTORIALS.glob("*.ipynb"):
    _old.unlink()
for _notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
    shutil.copy(_notebook, TUTORIALS)
shutil.copytree(
    HERE.parent / "notebooks" / "images", TUTORIALS / "images", dirs_exist_ok=True
)

project = "mpreg_nb"
author = "mpreg_nb contributors"
project_copyright = author
version = release = installed("mpreg_nb")

extensions = [
    "sphinx.ext.autodoc",
    "myst_nb",
    "sphinx_copybutton",
    "from_source",
]
exclude_patterns = ["extensions"]
default_role = "code"
nitpicky = False
smartquotes = False

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # live widgets need a kernel; their still pictures do not
nb_merge_streams = True
nb_mime_priority_overrides = [
    ("html", "application/vnd.jupyter.widget-view+json", None),
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = "mpreg_nb"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\$ |In \[\d*\]: "
copybutton_prompt_is_regexp = True
