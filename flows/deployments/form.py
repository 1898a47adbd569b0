"""What a person may type into the form of a scheduled run: Prefect's server refuses anything else at once."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import Field

from flows.project import nodes
from flows.project.nodes import STAGES

_PARAMS = Path(__file__).parents[2] / "params"


def _presets(group: str) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in (_PARAMS / group).glob("*.yaml")))


if TYPE_CHECKING:  # which names there are is known only when this runs
    Experiment = Place = Stage = ArmStage = str
else:
    Experiment = Annotated[
        Literal[_presets("experiment")],
        Field(description="A preset of params/experiment/"),
    ]
    Place = Annotated[
        Literal[_presets("compute")],
        Field(description="Where stages compute: a preset of params/compute/"),
    ]
    Stage = Annotated[
        Literal[tuple(name for name, row in STAGES.items() if not row.arms)],
        Field(description="The stage to make, with what it reads"),
    ]
    ArmStage = Annotated[
        Literal[tuple(name for name, row in STAGES.items() if row.arms)],
        Field(description="The stage that has the arm"),
    ]
Override = Annotated[str, Field(pattern=r"^(~[\w/][\w./@-]*(=.*)?|\+{0,2}[\w/][\w./@-]*=.*)$")]
Overrides = Annotated[list[Override], Field(description="Hydra overrides: distill.arms.tdm1.nfe=2, ~rl.arms.dgpo")]
Seed = Annotated[int | None, Field(ge=0, le=2**53, description="Empty: the experiment's own")]  # exact in a browser
Ref = Annotated[
    str,
    Field(
        pattern=r"^\w[\w./-]*$", max_length=200, description="A branch, tag or commit of origin; HEAD is its default"
    ),
]
Push = Annotated[bool, Field(description="Push data to the DVC remote, dvc.lock and params.yaml to a branch of origin")]
Hours = Annotated[float, Field(gt=0, le=240, description="The run is ended after this long; what it finished is kept")]
Arm = Annotated[str, Field(pattern=nodes.NAME, description="One of the experiment's arms, such as tdm1")]


def words(experiment: str, compute: str, seed: int | None, overrides: list[str]) -> list[str]:
    """The form's fields as Hydra overrides; what was typed by hand comes last."""
    fixed = [f"experiment={experiment}", f"compute={compute}"]
    return fixed + ([] if seed is None else [f"seed={seed}"]) + list(overrides)


def described(function: Callable[..., Any]) -> Callable[..., Any]:
    """Say each field's description in the docstring, which is where Prefect's form looks for them."""
    hints = get_type_hints(function, include_extras=True)
    lines = [f"    {name}: {hint.__metadata__[0].description}" for name, hint in hints.items() if name != "return"]
    function.__doc__ = "\n".join([function.__doc__ or "", "", "Args:", *lines])
    return function
