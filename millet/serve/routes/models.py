"""What the web app knows of the models: whether they can answer yet, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from millet.reasoning.assistant import Thinks
from millet.serve.caller import Caller
from millet.serve.chat import LoadProgress, ModelStatus
from millet.serve.dependencies import get_caller
from millet.serve.routes.replies import get_service
from millet.serve.service import Service

router = APIRouter(prefix="/api", tags=["models"])


class Model(BaseModel):
    """Null is what is not known: of an upstream everything but its state, of a model outside the catalog its licence,
    languages and description. context_length: tokens, of prompt and reply together; known when the model is ready."""

    name: str
    default: bool
    state: Literal["loading", "ready", "unreachable"]
    progress: LoadProgress | None
    context_length: int | None
    thinks: Thinks | None
    licence: str | None
    languages: Sequence[str] | None
    description: str | None


@router.get("/models")
async def list_models(
    caller: Annotated[Caller, Depends(get_caller)], service: Annotated[Service, Depends(get_service)]
) -> Sequence[Model]:
    """The models that are served, the default first, also those that are still being loaded."""
    default = next(iter(service.backends))
    return [_model(name, name == default, backend.status()) for name, backend in service.backends.items()]


def _model(name: str, default: bool, status: ModelStatus) -> Model:
    about = status.about
    return Model(
        name=name,
        default=default,
        state=status.state,
        progress=status.progress,
        context_length=status.context_length,
        thinks=status.thinks,
        licence=(about and about.licence) or None,
        languages=(about and about.languages) or None,
        description=(about and about.title) or None,
    )
