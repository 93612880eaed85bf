# What layouts cost, measured on made-up structures: `snakemake memory`, `snakemake scaling`,
# `snakemake comm`. No study is part of `all`. Records of single measurements are kept, so an interrupted study goes on.
for study, measured in MEASUREMENTS.items():
    RECORD = STAGES[f"{study}_record"]

    rule:
        name:
            f"{study}_record"
        output:
            **RECORD.outputs,
        log:
            f"logs/studies/{study}-{RECORD.pattern}.log",
        conda:
            "../envs/train-cpu.yaml"
        # As many as there are: nothing else may run while times and memory are taken.
        threads: 512
        resources:
            nodes=measured.nodes(CONFIG),
            ranks_per_node=measured.ranks_per_node(CONFIG),
            tasks_per_node=measured.tasks_per_node(CONFIG),
            cpus_per_task=1,
            gpus_per_node=CONFIG.study.gpus_per_node,
            runtime=measured.minutes,
        params:
            settings=RECORD.settings,
            code=RECORD.code,
            study=study,
            options=measured.options,
        shell:
            flow.launch_line("ranks_per_node")
            + "mtlpar study {params.study} --config $CONFIG_FILE {params.options}"
            + " --out {output} > {log} 2>&1"


# What pre-training is worth on families that no model saw, and which sources help each other:
# `snakemake transfer`, `snakemake compatibility`.
for study, options in TRAININGS.items():
    RECORD = STAGES[f"{study}_record"]

    rule:
        name:
            f"{study}_record"
        input:
            RECORD.inputs,
        output:
            **RECORD.outputs,
        log:
            f"logs/studies/{study}-{RECORD.pattern}.log",
        conda:
            "../envs/train-cpu.yaml"
        threads: 1
        resources:
            runtime=240,
        params:
            settings=RECORD.settings,
            code=RECORD.code,
            study=study,
            options=options,
        shell:
            "mtlpar study {params.study} --config $CONFIG_FILE {params.options}"
            " --out {output} > {log} 2>&1"


for study in STUDIES:
    DRAWN = flow.rule_of(CONFIG, "study", study)

    rule:
        name:
            study
        input:
            DRAWN.inputs,
        output:
            **DRAWN.outputs,
        log:
            f"logs/studies/{study}.log",
        localrule: True
        conda:
            "../envs/report.yaml"
        params:
            settings=DRAWN.settings,
            code=DRAWN.code,
            study=study,
        shell:
            "mtlpar study draw --config $CONFIG_FILE --study {params.study} > {log} 2>&1"
