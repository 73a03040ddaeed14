"""What is asked before every render must not cost the import of a network client."""

from __future__ import annotations

import subprocess
import sys


def test_the_built_in_model_is_found_without_heavy_imports():
    code = (
        "import sys; from mlxdiff import hub; hub.resolve(hub.default_model()); import mlxdiff.text;"
        "print(*sorted({'mlx', 'numpy', 'huggingface_hub', 'httpx', 'httpx2', 'rich', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
