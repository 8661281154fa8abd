"""The names of the package itself."""

import pickle
import subprocess
import sys

import cloudpickle

import mpreg_nb as mp


def loaded_by(program: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{program}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_the_verb_workflow_is_not_hidden_by_the_folder_of_that_name() -> None:
    from mpreg_nb.workflows import builder

    assert callable(mp.workflow)
    assert mp.workflow.__module__ == "mpreg_nb.cluster.api"
    assert builder.__name__ == "mpreg_nb.workflows.builder"


def test_the_package_itself_travels_with_functions_that_read_it() -> None:
    packed = cloudpickle.dumps({"mp": mp})

    assert pickle.loads(packed)["mp"] is mp


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    own = {name for name in loaded_by("import mpreg_nb") if "mpreg_nb" in name}

    assert own - {"_editable_impl_mpreg_nb"} == {"mpreg_nb"}


def test_names_that_are_used_import_what_they_need_and_no_tables() -> None:
    loaded = loaded_by("import mpreg_nb as mp; mp.up; mp.function")

    assert "mpreg_nb.cluster.api" in loaded
    assert loaded & {"pandas", "matplotlib", "IPython"} == set()


def test_every_public_name_is_listed_for_completion() -> None:
    assert set(dir(mp)) >= {*mp.__all__, "__version__"}
    assert {"up", "connect", "adopt", "down", "ps", "current", "function"} <= set(
        mp.__all__
    )
    assert mp.__version__.count(".") >= 2


def test_a_worker_that_runs_a_cell_loads_nothing_of_the_notebook_but_its_body() -> None:
    loaded = loaded_by("import mpreg_nb.notebook.cell_body")

    assert {name for name in loaded if name.startswith("mpreg_nb.notebook.")} == {
        "mpreg_nb.notebook.cell_body",
        "mpreg_nb.notebook.ipython_lines",
    }
    assert loaded & {"IPython", "asyncio", "traitlets"} == set()
