# From raw archives to the paper's tables. This file is a table of contents: every rule is in
# rules/, one file per stage, and all logic is in the package (mtlpar.flow).
from snakemake.utils import min_version, validate

min_version("9.13")


configfile: "config.yaml"


include: "rules/common.smk"


# Defaults are filled in by the package, which reads the merged configuration.
validate(config, "workflow/schemas/config.schema.json", set_default=False)


report: "workflow/report/workflow.rst"


include: "rules/download.smk"
include: "rules/extract.smk"
include: "rules/normalize.smk"
include: "rules/pack.smk"
include: "rules/doctor.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/studies.smk"


onstart:
    check_status_command(workflow.executor_settings)


onerror:
    flow.after_failure(log, is_main_process=workflow.is_main_process)


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
