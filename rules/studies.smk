# What layouts cost, measured on made-up structures: `snakemake memory`, `snakemake scaling`,
# `snakemake comm`. None is part of `all`. Records of single measurements are kept, so an interrupted study goes on.
rule memory_record:
    output:
        **STAGES["memory_record"].outputs,
    log:
        "logs/studies/memory-{layout}-{branches}.log",
    conda:
        "../envs/train-cpu.yaml"
    # As many as there are: ranks of two measurements that share cores would only take longer.
    threads: 512
    resources:
        nodes=lambda wildcards: flow.study_nodes(
            CONFIG, flow.memory_ranks(wildcards.layout, int(wildcards.branches))
        ),
        ranks_per_node=lambda wildcards: flow.study_ranks_per_node(
            CONFIG, flow.memory_ranks(wildcards.layout, int(wildcards.branches))
        ),
        tasks_per_node=lambda wildcards: flow.study_tasks_per_node(
            CONFIG, flow.memory_ranks(wildcards.layout, int(wildcards.branches))
        ),
        cpus_per_task=1,
        gpus_per_node=CONFIG.study.gpus_per_node,
        runtime=20,
    params:
        settings=STAGES["memory_record"].settings,
        code=STAGES["memory_record"].code,
    shell:
        flow.launch_line("ranks_per_node")
        + "mtlpar study memory --config $CONFIG_FILE --layout {wildcards.layout}"
        " --branches {wildcards.branches} --out {output} > {log} 2>&1"


rule scaling_record:
    output:
        **STAGES["scaling_record"].outputs,
    log:
        "logs/studies/scaling-{ranks}.log",
    conda:
        "../envs/train-cpu.yaml"
    # As many as there are: nothing else may run while times are taken.
    threads: 512
    resources:
        nodes=lambda wildcards: flow.study_nodes(CONFIG, int(wildcards.ranks)),
        ranks_per_node=lambda wildcards: flow.study_ranks_per_node(
            CONFIG, int(wildcards.ranks)
        ),
        tasks_per_node=lambda wildcards: flow.study_tasks_per_node(
            CONFIG, int(wildcards.ranks)
        ),
        cpus_per_task=1,
        gpus_per_node=CONFIG.study.gpus_per_node,
        runtime=30,
    params:
        settings=STAGES["scaling_record"].settings,
        code=STAGES["scaling_record"].code,
    shell:
        flow.launch_line("ranks_per_node")
        + "mtlpar study scaling --config $CONFIG_FILE --out {output} > {log} 2>&1"


rule comm_record:
    output:
        **STAGES["comm_record"].outputs,
    log:
        "logs/studies/comm-{layout}.log",
    conda:
        "../envs/train-cpu.yaml"
    # As many as there are: nothing else may run while times are taken.
    threads: 512
    resources:
        nodes=flow.study_nodes(CONFIG, CONFIG.study.comm.ranks),
        ranks_per_node=flow.study_ranks_per_node(CONFIG, CONFIG.study.comm.ranks),
        tasks_per_node=flow.study_tasks_per_node(CONFIG, CONFIG.study.comm.ranks),
        cpus_per_task=1,
        gpus_per_node=CONFIG.study.gpus_per_node,
        runtime=20,
    params:
        settings=STAGES["comm_record"].settings,
        code=STAGES["comm_record"].code,
    shell:
        flow.launch_line("ranks_per_node")
        + "mtlpar study comm --config $CONFIG_FILE --layout {wildcards.layout}"
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
