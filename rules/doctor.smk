# Look for faults of the machine before node-hours are spent on it, on ranks and devices like those
# of training. Training depends on the result but is never repeated because of it.
rule doctor:
    output:
        **STAGES["doctor"].outputs,
    log:
        "logs/doctor/doctor.log",
    benchmark:
        "logs/benchmarks/doctor/doctor.tsv"
    conda:
        "../envs/train-cpu.yaml"
    threads: 1
    resources:
        nodes=1,
        tasks_per_node=1,
        cpus_per_task=1,
        gpus_per_node=0,
        runtime=10,
    params:
        settings=STAGES["doctor"].settings,
        code=STAGES["doctor"].code,
    shell:
        LAUNCH + "mtlpar doctor --config $CONFIG_FILE --out {output} > {log} 2>&1"
