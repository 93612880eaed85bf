# Names that all rules share.
from mtlpar.flow import snakefile as flow
from mtlpar.flow.accounting import check_status_command
from mtlpar.flow.command_line import refuse_what_drops_a_profile
from mtlpar.flow.measuring import MEASUREMENTS, TRAININGS
from mtlpar.flow.takeover import take_over
from mtlpar.report.items import ITEMS, figure_names, table_names
from mtlpar.study.records import STUDIES

refuse_what_drops_a_profile(workflow)
CONFIG = flow.read_config(workflow, config)
take_over(workflow)
# From here on `config` is complete: defaults filled in, overrides applied.
config = CONFIG.model_dump(mode="json")
# What each stage reads, writes and depends on: rules name no path of their own.
STAGES = flow.rules_of(CONFIG)
LAUNCH = flow.launch_line()
# Every shell command finds `mtlpar` of the environment that runs Snakemake, activated or not, and
# $CONFIG_FILE: the whole configuration, --config overrides included. It is no
# param, because a rule must run again when *its* settings change and not when any does.
shell.prefix(flow.shell_prefix(CONFIG))


wildcard_constraints:
    source="|".join(CONFIG.sources),
    model="|".join(CONFIG.models),
    seed="[0-9]+",
