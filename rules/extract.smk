# Read native files into columns, one process per raw file.
rule extract:
    input:
        FILES.raw_manifest("{source}"),
    output:
        manifest=FILES.extracted_manifest("{source}"),
    log:
        "logs/extract/{source}.log",
    benchmark:
        "logs/benchmarks/extract/{source}.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        runtime=120,
    params:
        settings=flow.rule_settings(CONFIG.extract),
        code=lambda wildcards: flow.reader_digest(wildcards.source),
    shell:
        "mtlpar extract --config $CONFIG_FILE --source {wildcards.source}"
        " --jobs {threads} > {log} 2>&1"
