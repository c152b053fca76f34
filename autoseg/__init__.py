"""autoseg: self-configuring segmentation for medical and remote-sensing images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoseg.pipeline.models import LoadedModel, load_model

__version__ = "0.1.0"
__all__ = ["LoadedModel", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """What is asked for is imported then: `import autoseg` loads nothing else."""
    if name in ("LoadedModel", "load_model"):
        from autoseg.pipeline import models

        return getattr(models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names that can be asked for."""
    return sorted({*globals(), *__all__})
