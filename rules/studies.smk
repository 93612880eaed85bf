# What layouts cost, measured on made-up structures: `snakemake memory`, `snakemake scaling`,
# `snakemake comm`. None is part of `all`. Records of single measurements are kept, so an interrupted study goes on.
localrules:
    memory,
    scaling,
    comm,


rule memory_record:
    output:
        FILES.memory_record("{layout}", "{branches}"),
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
        settings=flow.rule_settings(
            CONFIG.study.model, CONFIG.study.memory, CONFIG.study.atoms
        ),
        code=flow.code_digest("mtlpar.study.memory"),
    shell:
        "mtlpar launch --nodes {resources.nodes} --ranks-per-node {resources.ranks_per_node}"
        " --cpus-per-rank {resources.cpus_per_task} --gpus-per-node {resources.gpus_per_node}"
        " -- mtlpar study memory --config $CONFIG_FILE --layout {wildcards.layout}"
        " --branches {wildcards.branches} --out {output} > {log} 2>&1"


rule scaling_record:
    output:
        FILES.scaling_record("{ranks}"),
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
        settings=flow.rule_settings(
            CONFIG.study.model, CONFIG.study.scaling, CONFIG.study.atoms
        ),
        code=flow.code_digest("mtlpar.study.scaling"),
    shell:
        "mtlpar launch --nodes {resources.nodes} --ranks-per-node {resources.ranks_per_node}"
        " --cpus-per-rank {resources.cpus_per_task} --gpus-per-node {resources.gpus_per_node}"
        " -- mtlpar study scaling --config $CONFIG_FILE --out {output} > {log} 2>&1"


rule comm_record:
    output:
        FILES.comm_record("{layout}"),
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
        settings=flow.rule_settings(
            CONFIG.study.model, CONFIG.study.comm, CONFIG.study.atoms
        ),
        code=flow.code_digest("mtlpar.study.comm"),
    shell:
        "mtlpar launch --nodes {resources.nodes} --ranks-per-node {resources.ranks_per_node}"
        " --cpus-per-rank {resources.cpus_per_task} --gpus-per-node {resources.gpus_per_node}"
        " -- mtlpar study comm --config $CONFIG_FILE --layout {wildcards.layout}"
        " --out {output} > {log} 2>&1"


rule memory:
    input:
        flow.study_records(CONFIG, "memory"),
    output:
        flow.study_outputs(CONFIG, "memory"),
    log:
        "logs/studies/memory.log",
    conda:
        "../envs/report.yaml"
    params:
        settings=flow.rule_settings(CONFIG.report),
        code=flow.code_digest("mtlpar.report.studies"),
    shell:
        "mtlpar study draw --config $CONFIG_FILE --study memory > {log} 2>&1"


rule scaling:
    input:
        flow.study_records(CONFIG, "scaling"),
    output:
        flow.study_outputs(CONFIG, "scaling"),
    log:
        "logs/studies/scaling.log",
    conda:
        "../envs/report.yaml"
    params:
        settings=flow.rule_settings(CONFIG.report),
        code=flow.code_digest("mtlpar.report.studies"),
    shell:
        "mtlpar study draw --config $CONFIG_FILE --study scaling > {log} 2>&1"


rule comm:
    input:
        flow.study_records(CONFIG, "comm"),
    output:
        flow.study_outputs(CONFIG, "comm"),
    log:
        "logs/studies/comm.log",
    conda:
        "../envs/report.yaml"
    params:
        settings=flow.rule_settings(CONFIG.report),
        code=flow.code_digest("mtlpar.report.studies"),
    shell:
        "mtlpar study draw --config $CONFIG_FILE --study comm > {log} 2>&1"
