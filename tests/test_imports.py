"""Who may import whom: the table of docs/architecture.md, checked on the import statements of every file."""

import ast
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PICTURES = {"numpy", "PIL", "matplotlib"}
# Path prefix (the longest that fits counts) -> modules that its files may import besides the standard library.
TABLE = {
    "prompting/": {"prompting", "torch"},
    "prompting/files.py": {"filelock"},
    "prompting/images.py": {"prompting", "torch", "torchvision", "PIL", "numpy"},
    "prompting/classifier.py": {"prompting", "torch", "PIL"},
    "prompting/commands/": {"prompting", "torch", "tqdm"},
    "prompting/export/": {"prompting", "torch", "open_clip", "safetensors", "numpy", "huggingface_hub", "onnxruntime"},
    "prompting/export/portable.py": {"torch", "safetensors"},
    "prompting/commands/export.py": {"prompting", "huggingface_hub"},
    "prompting/commands/predict.py": {"prompting", "tqdm", "PIL"},
    "prompting/distill/": {"prompting", "torch", "numpy", "tqdm"},
    "prompting/explain/": {"prompting", "torch", "torchvision", "sklearn", "tensorboard"} | PICTURES,
    "prompting/ot/": {"prompting.ot", "torch"},
    "prompting/clip/": {"prompting", "torch", "open_clip", "safetensors"},
    "trainers/": {"trainers", "prompting", "dassl", "torch", "yacs", "filelock"},
    "datasets/": {"datasets", "dassl", "sklearn", "scipy", "tqdm", "tabulate"} | PICTURES,
    "datasets/mini/": {
        "datasets", "dassl.utils", "sklearn", "scipy", "tqdm", "yaml", "torch", "open_clip",
        "safetensors", "resvg_py",
    } | PICTURES,
    "experiments/": {
        "experiments", "trainers", "datasets", "prompting", "train", "dassl", "torch", "yacs", "yaml", "numpy",
        "scipy", "pandas", "tabulate", "matplotlib", "submitit", "tqdm", "jinja2", "PIL", "filelock",
    },
    "engine/dassl/": {
        "dassl", "torch", "torchvision", "yacs", "yaml", "tqdm", "tabulate", "tensorboard", "sklearn",
    } | PICTURES,
    "train.py": {"trainers", "datasets", "dassl", "torch", "yacs", "yaml"},
}  # fmt: skip
FILES = [path for top in TABLE for path in PROJECT.glob(f"{top}**/*.py" if top.endswith("/") else top)]


def imports(path: Path) -> set[str]:
    """Return the absolute dotted names that a file imports; ``from a import b`` counts as ``a.b``."""
    root = PROJECT / "engine" if "engine" in path.relative_to(PROJECT).parts[:1] else PROJECT
    package = path.relative_to(root).parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*parents, *filter(None, [node.module])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted(set(FILES)), ids=lambda path: str(path.relative_to(PROJECT)))
def test_imports(path):
    name = path.relative_to(PROJECT).as_posix()
    allowed = TABLE[max((prefix for prefix in TABLE if name.startswith(prefix)), key=len)]
    for module in imports(path):
        parts = module.split(".")
        fits = {".".join(parts[: i + 1]) for i in range(len(parts))} & allowed
        assert fits or parts[0] in sys.stdlib_module_names, f"{name} imports {module}; allowed: {sorted(allowed)}"


def test_the_encoders_and_learners_do_not_import_methods():
    users = {"methods", "commands", "export", "distill", "classifier.py"}
    for path in PROJECT.glob("prompting/**/*.py"):
        if not (users | {"explain"}) & set(path.parts):
            assert not any(module.startswith("prompting.methods") for module in imports(path)), path
