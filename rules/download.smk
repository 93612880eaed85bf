# Fetch the native files of one source, verified. The files themselves are not declared as outputs:
# Snakemake deletes outputs before a job starts, and 12 GB that are already here must stay.
localrules:
    download,


rule download:
    output:
        **STAGES["download"].outputs,
    log:
        "logs/download/{source}.log",
    benchmark:
        "logs/benchmarks/download/{source}.tsv"
    priority: flow.DATA_PRIORITY
    conda:
        "../envs/data.yaml"
    params:
        settings=STAGES["download"].settings,
        code=STAGES["download"].code,
    shell:
        "mtlpar download --config $CONFIG_FILE --source {wildcards.source} > {log} 2>&1"
