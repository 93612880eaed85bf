"""Profiles, without a scheduler: dry runs, submit lines, the PBS scripts, what is documented."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra
from warm import warm_python

from mtlpar.parallel.launch import Geometry, launch_command
from mtlpar.study.records import STUDIES

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("profiles")]

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "profiles"
SLURM = ("slurm", "frontier", "perlmutter")
CLUSTERS = (*SLURM, "aurora")
ALL = ("default", "local", *CLUSTERS)
# What the default run sends to a cluster, and what it sends only if asked to.
RUN_RULES = {"extract", "normalize", "find_leaks", "pack", "doctor", "train", "evaluate"}
STUDY_RULES = {"memory_record", "scaling_record", "comm_record"}
# These train small models in one process.
SMALL_RULES = {"transfer_record", "compatibility_record"}
JOB_RULES = RUN_RULES | STUDY_RULES | SMALL_RULES | {"extract_share", "pack_share"}


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """Dry run of a profile on folders of its own; the output is that of Snakemake.

    For a cluster it is that of everything, studies too, with as many cores as its nodes have.
    """
    folder = tmp_path_factory.mktemp("profiles")
    (folder / "mirror").mkdir()

    @cache
    def run(profile, *options):
        command = [*warm_python(), "-m", "snakemake", "--dry-run", "--nolock", *options]
        if profile != "default":
            command += ["--profile", f"profiles/{profile}"]
        if profile in CLUSTERS:
            command += ["--cores", "1000", "all", *STUDIES]
        command += ["--config", f"download__mirrors={folder / 'mirror'}"]
        command += [f"paths__raw={folder / 'raw'}", f"paths__results={folder / 'results'}"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    return run


def jobs_of(output, rule):
    """Resources and threads of the jobs of one rule, by the value of the wildcard."""
    jobs = {}
    for block in re.split(r"^\[.*\]$", output, flags=re.MULTILINE):
        if f"\nrule {rule}:\n" not in block:
            continue
        lines = dict(line.strip().split(": ", 1) for line in block.splitlines() if ": " in line)
        resources = dict(entry.split("=", 1) for entry in lines["resources"].split(", "))
        values = {key: int(v) if v.isdigit() else v for key, v in resources.items()}
        wildcard = lines.get("wildcards", "=").split("=")[1]
        jobs[wildcard] = SimpleNamespace(
            name=rule, threads=int(lines.get("threads", 1)), resources=Resources(values)
        )
    return jobs


class Resources(dict):
    """Resources as Snakemake hands them to an executor: items are attributes too."""

    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]


def sbatch_line(job):
    """What the plugin would run, without asking Slurm for accounts and partitions."""
    validate_slurm_extra(job)
    params = {
        "run_uuid": "run",
        "slurm_logfile": "log",
        "comment_str": job.name,
        "account": f"-A '{job.resources.slurm_account}'",
        "partition": f"-p '{job.resources.get('slurm_partition', '')}'",
        "workdir": ".",
    }
    return get_submit_command(job, params) + set_gres_string(job)


def qsub_line(job):
    """What submit.py would run for a job of Aurora."""
    script = load_script("submit")
    settings = yaml.safe_load((PROFILES / "aurora" / "config.yaml").read_text())
    command = settings["cluster-generic-submit-cmd"]
    words = shlex.split(command.format(resources=job.resources, rule=job.name, jobid=1))
    options = script._parser().parse_args([*words[1:], "job.sh"])
    line = shlex.join(script.qsub_command(options))
    return line.replace(str(options.logs.resolve()), "logs/pbs")


def launch_line(profile, job):
    """What `mtlpar launch` runs in a job, with the variables that env.sh sets for it."""
    text = (PROFILES / profile / "env.sh").read_text()
    assignment = r'^export (MTLPAR_\w+)=(?:"\$\{\w+-(\w*)\}"|"([^"]*)"|(\S+))$'
    variables = {
        name: "".join(values) for name, *values in re.findall(assignment, text, re.MULTILINE)
    }
    resources = job.resources
    geometry = Geometry(
        nodes=resources.nodes,
        ranks_per_node=resources.get("ranks_per_node", resources.tasks_per_node),
        cpus_per_rank=resources.cpus_per_task,
        gpus_per_node=resources.gpus_per_node,
    )
    launcher = "pals" if profile == "aurora" else "srun"
    line = launch_command(geometry, ["mtlpar", job.name], launcher=launcher, environment=variables)
    return shlex.join(line)


def load_script(name):
    """Import one of the scripts, which lie in no package."""
    spec = importlib.util.spec_from_file_location(f"pbs_{name}", PROFILES / "aurora" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_profile_is_tested():
    # The tests below go through ALL: a folder that is not in it is one that nobody looks at.
    folders = {path.parent.name for path in PROFILES.glob("*/config.yaml")}
    assert folders == set(ALL)


class TestDryRun:
    @pytest.mark.parametrize("profile", ALL)
    def test_whole_workflow(self, dry_run, profile):
        output = dry_run(profile)
        assert re.search(r"^train +9$", output, re.MULTILINE)
        assert re.search(r"^table1 +1$", output, re.MULTILINE)

    @pytest.mark.parametrize("profile", CLUSTERS)
    def test_default_profile_caps_no_cluster(self, dry_run, profile):
        # The cores of the login node would become a limit for the threads of every job.
        output = dry_run(profile)
        threads = {job.threads for job in jobs_of(output, "extract").values()}
        settings = yaml.safe_load((PROFILES / profile / "config.yaml").read_text())
        assert threads == {settings["set-threads"]["extract"]}

    def test_default_profile_yields_to_others(self, monkeypatch):
        from snakemake.profiles import ProfileConfigFileParser

        def entries():
            with (PROFILES / "default" / "config.yaml").open() as stream:
                return set(ProfileConfigFileParser().parse(stream))

        monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
        monkeypatch.setattr(sys, "argv", ["snakemake", "table1"])
        local = yaml.safe_load((PROFILES / "local" / "config.yaml").read_text())
        assert entries() == set(local)
        monkeypatch.setattr(sys, "argv", ["snakemake", "--profile=profiles/frontier"])
        assert entries() == {"keep-going", "show-failed-logs"}
        monkeypatch.setattr(sys, "argv", ["snakemake"])
        monkeypatch.setenv("SNAKEMAKE_PROFILE", "profiles/frontier")
        assert entries() == {"keep-going", "show-failed-logs"}

    def test_only_data_and_models_become_jobs(self, tmp_path):
        # Clusters limit the number of jobs: downloads need the network, tables take seconds.
        code = """
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings
with SnakemakeApi(OutputSettings()) as api:
    flow = api.workflow(
        resource_settings=ResourceSettings(cores=1),
        config_settings=ConfigSettings(),
        snakefile=Path("Snakefile"),
    )._workflow
    print(*(rule.name for rule in flow.rules if rule.name not in flow._localrules))
"""
        script = tmp_path / "rules.py"
        script.write_text(code)
        result = subprocess.run(
            [*warm_python(), str(script)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        # `all` has no shell: Snakemake never submits it.
        assert set(result.stdout.split()) == JOB_RULES | {"all"}


def test_every_line_that_starts_something_is_as_agreed(dry_run, tmp_path):
    """Lines of all profiles and rules against submit_lines.txt.

    None of the machines is at hand: these lines are what was checked against their documentation,
    and no change may slip through. After a change that is meant, copy the file that the failure
    names over the old one.
    """
    lines = []
    for profile in CLUSTERS:
        output = dry_run(profile)
        for rule in sorted(RUN_RULES | STUDY_RULES | SMALL_RULES):
            jobs = jobs_of(output, rule)
            # Of the studies the smallest measurement: one rank of several is a special case.
            job = jobs.get("mtl") or jobs.get("ani1x") or jobs[min(jobs)]
            line = qsub_line(job) if profile == "aurora" else sbatch_line(job)
            lines.append(f"{profile} {rule}: {line.strip()}")
            if rule in {"doctor", "train"} | STUDY_RULES:
                lines.append(f"{profile} {rule}: {launch_line(profile, job)}")
    found = tmp_path / "submit_lines.txt"
    found.write_text("\n".join(lines) + "\n")
    agreed = Path(__file__).with_name("submit_lines.txt").read_text()
    assert found.read_text() == agreed, f"written to {found}"


class TestSlurm:
    @pytest.mark.parametrize("profile", SLURM)
    def test_train_asks_for_its_ranks(self, dry_run, profile):
        job = jobs_of(dry_run(profile), "train")["mtl"]
        line = sbatch_line(job)
        settings = yaml.safe_load((PROFILES / profile / "config.yaml").read_text())
        train = settings["set-resources"]["train"]
        assert f"--nodes={train['nodes']} " in line
        assert f"--ntasks-per-node={train['tasks_per_node']} " in line
        assert f"--cpus-per-task={train['cpus_per_task']} " in line
        assert f"--gres={train['gres']}" in line
        assert "--ntasks-per-gpu" not in line
        assert "--ntasks=" not in line
        assert "--mem" not in line
        assert train["gres"] == f"gpu:{train['gpus_per_node']}"
        assert train["mpi"] == "srun"

    @pytest.mark.parametrize("profile", SLURM)
    def test_evaluate_is_one_process_with_a_gpu(self, dry_run, profile):
        job = jobs_of(dry_run(profile), "evaluate")["mtl"]
        assert job.resources.gres.startswith("gpu:")
        # Else the plugin would expect the rule to call srun.
        assert "mpi" not in job.resources
        assert "--ntasks-per-gpu" not in sbatch_line(job)
        assert job.resources.nodes == 1

    @pytest.mark.parametrize("profile", SLURM)
    @pytest.mark.parametrize("rule", ["extract", "normalize", "pack"])
    def test_data_rules_are_one_task(self, dry_run, profile, rule):
        job = jobs_of(dry_run(profile), rule)["ani1x"]
        line = sbatch_line(job)
        assert "--ntasks=1 " in line
        assert "gpu" not in line
        assert job.threads <= job.resources.cpus_per_task

    @pytest.mark.parametrize("profile", SLURM)
    def test_slurm_leaves_retries_to_snakemake(self, profile):
        # Both at once would make two jobs of one.
        settings = yaml.safe_load((PROFILES / profile / "config.yaml").read_text())
        assert settings["slurm-no-requeue"] is True

    def test_frontier_keeps_within_the_walltimes(self, dry_run):
        output = dry_run("frontier")
        for rule in RUN_RULES:
            for job in jobs_of(output, rule).values():
                nodes = job.resources.nodes
                hours = 2 if nodes < 92 else 6 if nodes < 184 else 12
                assert job.resources.runtime <= 60 * hours

    def test_aurora_keeps_within_its_queue(self, dry_run):
        # `capacity`: up to 16 nodes and 7 days.
        output = dry_run("aurora")
        for rule in RUN_RULES:
            for job in jobs_of(output, rule).values():
                assert job.resources.pbs_queue == "capacity"
                assert job.resources.nodes <= 16
                assert job.resources.runtime <= 7 * 24 * 60

    @pytest.mark.parametrize("profile", CLUSTERS)
    def test_a_training_of_six_hours_fits_into_the_retries(self, profile):
        settings = yaml.safe_load((PROFILES / profile / "config.yaml").read_text())
        # A number, or an expression of the attempt.
        expression = str(settings["set-resources"]["train"]["runtime"])
        runtimes = [eval(expression, {"attempt": i + 1}) for i in range(settings["retries"] + 1)]
        # A tenth of each job, at most two minutes, is kept back; allow as much again to start.
        assert sum(runtime - 2 * min(2, runtime / 10) for runtime in runtimes) >= 6 * 60

    @pytest.mark.parametrize(("profile", "limit"), [("slurm", 720), ("frontier", 120)])
    def test_jobs_that_were_too_short_get_more_time(self, dry_run, profile, limit):
        # A resource in the rule would win over the one in default-resources, whatever that says.
        first, second = dry_run(profile), dry_run(profile, "--attempt", "2")
        for rule in ("normalize", "pack", "train"):
            target = "mtl" if rule == "train" else "ani1x"
            before, after = (
                jobs_of(output, rule)[target].resources.runtime for output in (first, second)
            )
            assert after == min(limit, 2 * before), rule

    @pytest.mark.parametrize("profile", CLUSTERS)
    def test_shares_of_a_source_get_what_the_source_gets(self, profile):
        settings = yaml.safe_load((PROFILES / profile / "config.yaml").read_text())
        for block in (settings["set-threads"], settings["set-resources"]):
            for rule in ("extract", "pack"):
                assert block.get(f"{rule}_share") == block.get(rule)

    def test_a_source_spreads_over_nodes_as_tasks_of_an_array(self, dry_run, tmp_path):
        spread = tmp_path / "spread.yaml"
        spread.write_text("extract: {shares: 4}\npack: {shares: 4}\n")
        arrays = ("--slurm-array-jobs", "extract_share,pack_share")
        output = dry_run("slurm", "--configfile", str(spread), *arrays)
        blocks = re.split(r"^\[.*\]$", output, flags=re.MULTILINE)
        for rule in ("extract", "pack"):
            tasks = [block for block in blocks if f"\nrule {rule}_share:\n" in block]
            shares = re.findall(r"wildcards: source=ani1x, share=(\d+)-of-4", "".join(tasks))
            assert sorted(map(int, shares)) == list(range(4))
            # Tasks of one array all get what the first gets, here a node each.
            assert {re.search(r"nodes=\d+", block)[0] for block in tasks} == {"nodes=1"}
            assert len({re.search(r"resources: (.*)", block)[1] for block in tasks}) == 1
            # One job gathers the shares of a source.
            alone = [block for block in blocks if f"\nrule {rule}:\n" in block]
            assert sum("source=ani1x" in block for block in alone) == 1
            assert all("share=" not in block for block in alone)

    @pytest.mark.parametrize("profile", CLUSTERS)
    def test_retries_are_new_jobs(self, profile):
        settings = yaml.safe_load((PROFILES / profile / "config.yaml").read_text())
        assert settings["retries"] >= 1
        assert "retries:" not in "".join(path.read_text() for path in ROOT.glob("rules/*.smk"))


class TestPbs:
    @pytest.mark.parametrize(
        ("job", "expected"),
        [
            ({"job_state": "Q"}, "running"),
            ({"job_state": "H"}, "running"),
            ({"job_state": "R"}, "running"),
            ({"job_state": "E"}, "running"),
            ({"job_state": "S"}, "running"),
            ({"job_state": "F", "Exit_status": 0}, "success"),
            ({"job_state": "F", "Exit_status": 1}, "failed"),
            ({"job_state": "F", "Exit_status": 271}, "failed"),
            ({"job_state": "F", "Exit_status": -29}, "failed"),
            ({"job_state": "F"}, "failed"),
            ({}, "running"),
        ],
    )
    def test_states(self, job, expected):
        assert load_script("status").state_of(job) == expected

    @pytest.mark.parametrize(
        ("answers", "expected", "calls"),
        [
            ([(0, '{"Jobs": {"7.x": {"job_state": "F", "Exit_status": 0}}}', "")], "success", 1),
            ([(0, '{"Jobs": {"7.x": {"job_state": "R"}}}', "")], "running", 1),
            # A silent server is no failure.
            ([(1, "", "qstat: cannot connect to server")] * 5, "running", 5),
            ([(0, '{"Jobs": {', "")] * 5, "running", 5),
            ([(0, "{}", "")] * 5, "running", 5),
            ([(153, "", "qstat: Unknown Job Id 7.x")] * 5, "failed", 5),
            # Right after qsub, or after a restart, the server may not know the job yet.
            (
                [
                    (153, "", "qstat: Unknown Job Id 7.x"),
                    (1, "", "qstat: End of File"),
                    (0, '{"Jobs": {"7.x": {"job_state": "Q"}}}', ""),
                ],
                "running",
                3,
            ),
        ],
    )
    def test_answers_of_qstat(self, monkeypatch, answers, expected, calls):
        script = load_script("status")
        asked, waits = [], []

        def qstat(command, **_):
            asked.append(command)
            status, stdout, stderr = answers[len(asked) - 1]
            return subprocess.CompletedProcess(command, status, stdout, stderr)

        monkeypatch.setattr(script.subprocess, "run", qstat)
        assert script.status("7.x", sleep=waits.append) == expected
        assert len(asked) == calls
        assert waits == [1, 2, 4, 8][: calls - 1]
        assert asked[0] == ["qstat", "-x", "-f", "-F", "json", "7.x"]

    def test_profile_submits_train(self, dry_run, tmp_path):
        """The submit command of the profile, filled in for `train`, as qsub receives it."""
        received = tmp_path / "received"
        programs = fake_programs(
            tmp_path, qsub=f'printf "%s\\n" "$@" > {received}; echo notice; echo 7.aurora'
        )
        job = jobs_of(dry_run("aurora"), "train")["mtl"]
        settings = yaml.safe_load((PROFILES / "aurora" / "config.yaml").read_text())
        command = settings["cluster-generic-submit-cmd"].replace("logs/pbs", str(tmp_path / "logs"))
        line = command.format(resources=job.resources, rule="train", jobid=3)
        result = subprocess.run(
            f'{line} "job.sh"',
            shell=True,
            cwd=ROOT,
            env=programs,
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout == "7.aurora\n"
        arguments = received.read_text().split("\n")
        pairs = list(pairwise(arguments))
        for pair in (
            ("-N", "mtlpar.train.3"),
            ("-A", "ABC123"),
            ("-q", "capacity"),
            ("-l", "select=4"),
            ("-l", "walltime=12:00:00"),
            ("-l", "filesystems=home:flare"),
            ("-o", f"{tmp_path / 'logs'}/"),
        ):
            assert pair in pairs
        assert arguments[-2] == "job.sh"

    def test_refused_submission_is_an_error(self, tmp_path):
        programs = fake_programs(tmp_path, qsub="echo 'qsub: Invalid account' >&2; exit 171")
        options = "--account=x --queue=q --filesystems=home --nodes=1 --minutes=5 --name=n"
        result = subprocess.run(
            [PROFILES / "aurora" / "submit.py", *options.split(), f"--logs={tmp_path}", "job.sh"],
            env=programs,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stdout) == (171, "")
        assert "Invalid account" in result.stderr

    def test_cancel_goes_on_after_an_error(self, tmp_path):
        received = tmp_path / "received"
        programs = fake_programs(tmp_path, qdel=f'echo "$1" >> {received}; exit 35')
        subprocess.run([PROFILES / "aurora" / "cancel.sh", "1.x", "2.x"], env=programs, check=True)
        assert received.read_text().split() == ["1.x", "2.x"]

    def test_train_fits_the_node(self):
        settings = yaml.safe_load((PROFILES / "aurora" / "config.yaml").read_text())
        train = settings["set-resources"]["train"]
        binding = re.search(
            r'MTLPAR_CPU_BIND="list:(.*)"', (PROFILES / "aurora" / "env.sh").read_text()
        )
        ranges = [tuple(map(int, cores.split("-"))) for cores in binding[1].split(":")]
        assert len(ranges) == train["tasks_per_node"]
        cores = [core for first, last in ranges for core in range(first, last + 1)]
        assert len(set(cores)) == train["tasks_per_node"] * train["cpus_per_task"]
        assert not {0, 52} & set(cores)


def fake_programs(folder, **scripts):
    """Environment in which the named programs are the given shell scripts."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(folder)}


class TestScripts:
    @pytest.mark.parametrize(
        "script", sorted(PROFILES.glob("*/*.sh")), ids=lambda path: "-".join(path.parts[-2:])
    )
    def test_shell_syntax(self, script):
        subprocess.run(["sh", "-n", script], check=True)
        # /bin/sh of some machines is no bash.
        assert not re.search(r"^\s*source |\[\[|<\(|\bfunction ", script.read_text(), re.MULTILINE)

    @pytest.mark.parametrize("name", ["submit.py", "status.py"])
    def test_python_compiles(self, tmp_path, name):
        script = PROFILES / "aurora" / name
        py_compile.compile(str(script), cfile=str(tmp_path / "out.pyc"), doraise=True)

    @pytest.mark.parametrize("name", ["submit.py", "status.py", "cancel.sh"])
    def test_executable(self, name):
        assert os.access(PROFILES / "aurora" / name, os.X_OK)

    @pytest.mark.parametrize("profile", CLUSTERS)
    def test_profile_names_what_exists(self, profile):
        settings = yaml.safe_load((PROFILES / profile / "config.yaml").read_text())
        assert settings["precommand"].split("; ")[-1] == f". profiles/{profile}/env.sh"
        for key in ("submit", "status", "cancel"):
            command = settings.get(f"cluster-generic-{key}-cmd", "profiles/README.md").split()[0]
            assert (ROOT / command).is_file()

    @pytest.mark.parametrize("profile", CLUSTERS)
    def test_environment_is_activated(self, tmp_path, profile):
        result = self._source(tmp_path, profile, environment=tmp_path / "env")
        assert result.returncode == 0, result.stderr
        assert f"ACTIVE={tmp_path / 'env'}" in result.stdout
        if profile != "aurora":
            assert "MTLPAR_GPU_BIND=" in result.stdout

    @pytest.mark.parametrize("profile", CLUSTERS)
    def test_missing_environment_stops_the_job(self, tmp_path, profile):
        result = self._source(tmp_path, profile, environment=tmp_path / "nowhere")
        assert result.returncode != 0
        assert "started" not in result.stdout

    def test_a_network_plugin_that_is_not_loaded_is_told(self, tmp_path):
        # Training runs without it, several times slower, and nothing else would say why.
        missing = 'case "$*" in *nccl-plugin*) exit 1;; esac'
        environment = tmp_path / "env"
        result = self._source(tmp_path, "perlmutter", environment=environment, module=missing)
        assert result.returncode == 0, result.stderr
        assert "nccl-plugin was not loaded" in result.stderr

    def _source(self, folder, profile, *, environment, module="exit 0"):
        """Source env.sh as a job does, with stand-ins for the site's programs."""
        conda = folder / "conda" / "etc" / "profile.d"
        conda.mkdir(parents=True)
        conda.joinpath("conda.sh").write_text('conda() { [ -d "$2" ] && export ACTIVE="$2"; }\n')
        (folder / "env" / "bin").mkdir(parents=True)
        (folder / "env" / "bin" / "activate").write_text(f"export ACTIVE={folder / 'env'}\n")
        variables = fake_programs(
            folder, module=module, conda=f"echo {folder / 'conda'}", mtlpar="exit 0"
        )
        variables["MTLPAR_ENV"] = str(environment)
        return subprocess.run(
            ["sh", "-c", f". profiles/{profile}/env.sh && echo started && env"],
            cwd=ROOT,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )


class TestDocumentation:
    @pytest.mark.parametrize("profile", ALL)
    def test_every_entry_is_explained(self, profile):
        """A comment stands right above every key, or above the lines that continue its value."""
        lines = (PROFILES / profile / "config.yaml").read_text().splitlines()
        bare = [
            line
            for above, line in zip(["", *lines], lines, strict=False)
            if re.match(r"\s*([\w-]+:|\?if|- )", line) and not above.lstrip().startswith("#")
        ]
        assert bare == []

    @pytest.mark.parametrize("profile", CLUSTERS)
    def test_every_paragraph_of_the_environment_is_explained(self, profile):
        text = (PROFILES / profile / "env.sh").read_text()
        assert all(part.startswith("#") for part in text.strip().split("\n\n"))

    @pytest.mark.parametrize("profile", CLUSTERS)
    def test_account_is_marked(self, profile):
        text = (PROFILES / profile / "config.yaml").read_text()
        assert re.search(r"# CHANGE ME: .*\n(\s+#.*\n)*\s+(slurm|pbs)_account: \w+\n", text)

    def test_sites_are_named_in_profiles_only(self):
        files = [ROOT / "Snakefile", ROOT / "config.yaml", *ROOT.glob("rules/*.smk")]
        files += [*ROOT.glob("src/**/*.py"), *ROOT.glob("workflow/presets/*.yaml")]
        site = re.compile(r"/lustre|/pscratch|/lus/|/flare|/global/cfs|/ccs/|/eagle|/mnt/bb")
        found = [file.name for file in files if site.search(file.read_text())]
        assert found == []

    @pytest.mark.parametrize("profile", ["frontier", "perlmutter", "aurora"])
    def test_conda_is_left_to_the_machine(self, profile):
        text = (PROFILES / profile / "config.yaml").read_text()
        assert "software-deployment-method" not in yaml.safe_load(text)
        assert "software-deployment-method is left out on purpose" in text
