# Fetch the native files of one source, verified. The files themselves are not declared as outputs:
# Snakemake deletes outputs before a job starts, and 12 GB that are already here must stay.
localrules:
    download,


rule download:
    output:
        manifest=FILES.raw_manifest("{source}"),
    log:
        "logs/download/{source}.log",
    benchmark:
        "logs/benchmarks/download/{source}.tsv"
    conda:
        "../envs/data.yaml"
    params:
        files=lambda wildcards: flow.raw_fingerprint(CONFIG, wildcards.source),
        code=flow.code_digest("mtlpar.download.stage"),
    shell:
        "mtlpar download --config $CONFIG_FILE --source {wildcards.source} > {log} 2>&1"
