# Pre-train one named model. Checkpoints are not outputs, because Snakemake deletes the outputs of a
# failed job: a retry resumes from them. Geometry comes from the resources: a profile sets them in
# set-resources, for instance to the nodes that a plan of the layout asks for.
rule train:
    input:
        packs=lambda wildcards: flow.training_inputs(CONFIG, wildcards.model),
        doctor=ancient(FILES.doctor),
    output:
        model=FILES.model("{model}"),
        history=FILES.training_metrics("{model}"),
    log:
        "logs/train/{model}.log",
    benchmark:
        "logs/benchmarks/train/{model}.tsv"
    # The longest trainings first: those of most sources.
    priority: lambda wildcards: len(CONFIG.models[wildcards.model].sources)
    conda:
        "../envs/train-cpu.yaml"
    threads: lambda wildcards: flow.local_ranks(CONFIG, wildcards.model)
    resources:
        nodes=1,
        tasks_per_node=lambda wildcards: flow.local_ranks(CONFIG, wildcards.model),
        cpus_per_task=1,
        gpus_per_node=0,
        runtime=120,
    params:
        settings=lambda wildcards: flow.train_settings(CONFIG, wildcards.model),
        code=flow.code_digest("mtlpar.train.stage"),
    shell:
        "mtlpar launch --nodes {resources.nodes} --ranks-per-node {resources.tasks_per_node}"
        " --cpus-per-rank {resources.cpus_per_task} --gpus-per-node {resources.gpus_per_node}"
        " --walltime-min {resources.runtime}"
        " -- mtlpar train --config $CONFIG_FILE --model {wildcards.model} > {log} 2>&1"
