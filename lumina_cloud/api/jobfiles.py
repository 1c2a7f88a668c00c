"""`lumina jobfile`: a plan as a job of an engine that runs jobs on many machines: SkyPilot, Slurm, Kubeflow.

Lumina rents one machine at a time. Where that is not enough, it hands over rather than becoming another such engine: the job trains the
same configuration by the same trainer, spread by `torchrun`, ends at the plan's own upper bound of time, and goes on from its last
checkpoint when it is started again.
"""

from __future__ import annotations

import difflib
import json
import math
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import jinja2

from lumina_cloud import __version__
from lumina_cloud.api import launching, planning
from lumina_cloud.core import templates
from lumina_cloud.core.errors import RefusedError, UsageError
from trainer.config import ConfigError, check, with_layout

if TYPE_CHECKING:
    from lumina_cloud.api.session import Session
    from lumina_cloud.planner.plan import Row

Engine = Literal["skypilot", "slurm", "kubeflow"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
START: dict[Engine, str] = {"skypilot": "sky launch", "slurm": "sbatch", "kubeflow": "kubectl create -f"}
"""What a user types before the file's name."""
FILES: dict[Engine, tuple[str, str]] = {
    "skypilot": ("job_skypilot.yaml.j2", "yaml"),
    "slurm": ("job_slurm.sh.j2", "sh"),
    "kubeflow": ("job_kubeflow.yaml.j2", "yaml"),
}

GPUS_PER_NODE = 8
GRACE_SECONDS = 60
DISK_GB = 100

SKYPILOT_NAMES = {
    "A100-40GB-PCIe": "A100",
    "A100-40GB-SXM": "A100",
    "A100-80GB-PCIe": "A100-80GB",
    "A100-80GB-SXM": "A100-80GB-SXM",
    "H100-80GB-PCIe": "H100",
    "H100-80GB-SXM": "H100-SXM",
    "V100-16GB": "V100",
    "A4000": "RTXA4000",
    "A5000": "RTXA5000",
    "A6000": "RTXA6000",
    "RTX6000Ada": "RTX6000-Ada",
}
"""Where SkyPilot's catalog calls a GPU something else."""


@dataclass(frozen=True)
class JobFile:
    """A job, and the name that its file should have."""

    name: str
    text: str


def engine_named(name: str) -> Engine:
    """Return an engine by its name. Raises UsageError for an unknown one."""
    for engine in ENGINES:
        if name == engine:
            return engine
    near = difflib.get_close_matches(name, ENGINES, n=1)
    raise UsageError(f"no job can be written for {name!r}", f"{f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(ENGINES)}")


def write(session: Session, plan_id: str | None, engine: Engine, nodes: int, processes: int | None) -> JobFile:
    """Return a plan's recommended row as a job over `nodes` machines, of `processes` GPUs each where the plan's count is not meant.

    Raises UsageError for an unknown plan or a spread that the batch does not divide into, RefusedError for data that cannot get there.
    """
    row = _row(session, plan_id)
    per_node = row.machine.count if processes is None else processes
    if nodes < 1 or not 1 <= per_node <= GPUS_PER_NODE:
        raise UsageError(
            f"{nodes} machines of {per_node} GPUs cannot be asked for", f"--nodes from 1, --gpus-per-node from 1 to {GPUS_PER_NODE}"
        )
    config = row.estimate.config
    try:
        if nodes * per_node != config.layout.n_gpus:
            config = with_layout(config, replace(config.layout, n_gpus=nodes * per_node))
        check(config)
    except ConfigError as error:
        raise UsageError(error.message, error.hint) from error
    source = config.data.source
    local_data = source if Path(source).is_absolute() else None
    if local_data is not None and engine == "kubeflow":
        raise RefusedError(
            f"the data is on this computer ({source}), and a Kubernetes job cannot reach it",
            "plan with a data set that the machines can stream: --set source=hf:allenai/c4:en",
        )
    name = f"lumina-{row.model}-{row.arch}"
    # What the whole would take, were the work spread perfectly over that many GPUs; never less than the plan's own for its count.
    share = min(1.0, row.machine.count / (nodes * per_node))
    seconds = max(600, math.ceil(row.estimate.hours.high * 3600 * share * 1.5))
    gpus = 0 if row.machine.gpu.name == "cpu" else per_node
    fields: dict[str, Any] = {
        "name": name,
        "title": f"{row.model} {row.arch}, {config.training.tokens:,} tokens on {nodes} x {per_node} {row.machine.gpu.name}, by lumina",
        "nodes": nodes,
        "processes": per_node,
        "gpus": gpus,
        "gpu": row.machine.gpu.name,
        "accelerators": f"{SKYPILOT_NAMES.get(row.machine.gpu.name, row.machine.gpu.name)}:{per_node}" if gpus else "",
        "interruptible": row.machine.interruptible,
        "disk_gb": DISK_GB,
        "data_source": local_data,
        "minutes": math.ceil((seconds + 2 * GRACE_SECONDS) / 60),
        "grace_seconds": GRACE_SECONDS,
        "seconds": seconds,
        "package": shlex.quote(f"lumina-cloud[trainer{',hf' if source.startswith('hf:') else ''}]=={__version__}"),
        "config": json.dumps(asdict(config), indent=1, sort_keys=True),
        "torchrun": _torchrun(engine, nodes, per_node),
        "data": _data(engine, local_data),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates.folder()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # shell and YAML, not HTML; what is put in is our own or quoted
    )
    fields["script"] = environment.get_template("job_script.sh.j2").render(fields).rstrip("\n")
    template, ending = FILES[engine]
    return JobFile(f"{name}.{ending}", environment.get_template(template).render(fields))


def _row(session: Session, plan_id: str | None) -> Row:
    """Return the row that a kept plan recommends, planned anew from its request: a plan keeps figures, a job needs the configuration."""
    request, wanted = launching.request_from_plan(session.ledger, plan_id)
    planned = planning.make_plan(session, request, wanted)
    best = planned.plan.recommendation
    return planned.plan.rows[0] if best is None else best.row


def _torchrun(engine: Engine, nodes: int, per_node: int) -> str:
    """Return how the trainer's processes are started: on one machine by themselves, on several by the engine's own variables."""
    if engine == "kubeflow":
        # The runtime sets PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and their like, which torchrun reads.
        return f"torchrun --nproc_per_node={per_node}"
    if nodes == 1:
        return f"torchrun --standalone --nproc_per_node={per_node}"
    if engine == "skypilot":
        head = '"$(echo "$SKYPILOT_NODE_IPS" | head -n 1)"'
        rank = '"$SKYPILOT_NODE_RANK"'
    else:
        head, rank = '"$MASTER_ADDR"', '"$SLURM_NODEID"'
    return f"torchrun --nnodes={nodes} --nproc_per_node={per_node} --node_rank={rank} --master_addr={head} --master_port=29500"


def _data(engine: Engine, local_data: str | None) -> str:
    if local_data is None:
        return ""
    return " --data ~/lumina-data" if engine == "skypilot" else f" --data {shlex.quote(local_data)}"
