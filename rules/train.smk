# Pre-train one named model. Checkpoints are not outputs, because Snakemake deletes the outputs of a
# failed job: a retry resumes from them. Geometry comes from the resources: a profile sets them in
# set-resources, for instance to the nodes that a plan of the layout asks for.
rule train:
    input:
        STAGES["train"].inputs,
        after=ancient(STAGES["train"].after),
    output:
        **STAGES["train"].outputs,
    log:
        "logs/train/{model}.log",
    benchmark:
        "logs/benchmarks/train/{model}.tsv"
    # The longest trainings first, and of these the ones that take most cores, which would otherwise
    # stay idle one by one until all are free.
    priority: lambda wildcards: flow.training_priority(CONFIG, wildcards.model)
    conda:
        "../envs/train-cpu.yaml"
    threads: lambda wildcards: flow.local_ranks(CONFIG, wildcards.model)
    resources:
        nodes=1,
        # On a machine with fewer cores than branches a rank trains several branches.
        tasks_per_node=lambda wildcards, threads: threads,
        cpus_per_task=1,
        gpus_per_node=0,
        runtime=120,
    params:
        settings=STAGES["train"].settings,
        code=STAGES["train"].code,
    shell:
        LAUNCH
        + "mtlpar train --config $CONFIG_FILE --model {wildcards.model} > {log} 2>&1"
