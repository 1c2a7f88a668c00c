"""Jobs for engines of many machines, read by those engines' own models where they are on PyPI."""

import json
import subprocess

import pytest
import yaml

from lumina_cloud.api import jobfiles
from lumina_cloud.api.lumina import Lumina
from lumina_cloud.api.planning import MachineFilter
from lumina_cloud.core.errors import RefusedError, UsageError
from lumina_cloud.runs.workloads import WorkloadRequest
from trainer import config as trainer_config


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A home in which b1 was planned on GPUs of a cloud."""
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    with Lumina() as lumina:
        lumina.plan(WorkloadRequest(model="b1", archs=("moe",)), MachineFilter(provider="runpod"))
        yield lumina


def configuration(script):
    """Return the run.json within a job's script."""
    return json.loads(script.split("<<'LUMINA_RUN'\n", 1)[1].split("\nLUMINA_RUN\n", 1)[0])


def check_script(script, gpus, tmp_path):
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    config = configuration(script)
    assert config["layout"]["n_gpus"] == gpus
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config))
    loaded = trainer_config.load(path)
    trainer_config.check(loaded)
    assert loaded.training.tokens == 20_000_000_000
    assert "-m trainer train --config run.json" in script
    assert "lumina-cloud[trainer" in script


def test_skypilot(planned, tmp_path):
    document = yaml.safe_load(jobfiles.write(planned.session, None, "skypilot", 2, 8).text)
    assert (document["num_nodes"], document["resources"]["accelerators"]) == (2, "A100-80GB:8")
    assert document["resources"]["autostop"] == {"idle_minutes": 5, "down": True}
    check_script(document["run"], 16, tmp_path)
    assert "--nnodes=2" in document["run"]
    sky = pytest.importorskip("sky", reason="SkyPilot's own client is not installed: pip install skypilot")
    assert sky.Task.from_yaml_config(document).num_nodes == 2


def test_slurm(planned, tmp_path):
    text = jobfiles.write(planned.session, None, "slurm", 2, 4).text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    options = dict(
        line.removeprefix("#SBATCH --").split("=", 1) for line in text.splitlines() if line.startswith("#SBATCH") and "=" in line
    )
    assert (options["nodes"], options["gpus-per-node"], options["ntasks-per-node"], options["signal"]) == ("2", "4", "1", "TERM@60")
    assert int(options["time"]) > 10
    check_script(text.split("<<'LUMINA_JOB'\n", 1)[1].split("\nLUMINA_JOB\n", 1)[0], 8, tmp_path)


def test_kubeflow(planned, tmp_path):
    from kubeflow_trainer_api import models

    document = yaml.safe_load(jobfiles.write(planned.session, None, "kubeflow", 2, 4).text)
    job = models.TrainerV1alpha1TrainJob.from_dict(document)
    assert (job.kind, job.spec.trainer.num_nodes, job.spec.trainer.num_proc_per_node) == ("TrainJob", 2, 4)
    assert job.to_dict()["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": "4"}
    check_script(job.spec.trainer.args[0], 8, tmp_path)


def test_what_does_not_divide_or_cannot_get_there_is_refused(planned, tmp_path):
    with pytest.raises(UsageError, match="kubeflw"):
        jobfiles.engine_named("kubeflw")
    with pytest.raises(UsageError):
        jobfiles.write(planned.session, None, "slurm", 7, 8)
    with pytest.raises(UsageError, match="no plan"):
        jobfiles.write(planned.session, "p-none", "slurm", 1, 1)
    text = tmp_path / "corpus.txt"
    text.write_text("words " * 50_000)
    planned.plan(WorkloadRequest(model="debug", data=str(text), tokens="1M"), MachineFilter(provider="runpod"))
    with pytest.raises(RefusedError, match="cannot reach it"):
        jobfiles.write(planned.session, None, "kubeflow", 1, 1)
    assert yaml.safe_load(jobfiles.write(planned.session, None, "skypilot", 1, 1).text)["file_mounts"] == {"~/lumina-data": str(text)}
