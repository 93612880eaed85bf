# Read native files into columns. With extract.shares above one, as many jobs, perhaps on other
# nodes, read a share of the pieces each; the job of the source then only gathers them.
rule extract_share:
    input:
        STAGES["extract_share"].inputs,
    output:
        **STAGES["extract_share"].outputs,
    log:
        "logs/extract/{source}-{share}.log",
    benchmark:
        "logs/benchmarks/extract/{source}-{share}.tsv"
    priority: flow.DATA_PRIORITY
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        settings=STAGES["extract_share"].settings,
        code=STAGES["extract_share"].code,
    shell:
        "mtlpar extract --config $CONFIG_FILE --source {wildcards.source}"
        " --share {wildcards.share} --jobs {threads} > {log} 2>&1"


rule extract:
    input:
        STAGES["extract"].inputs,
    output:
        **STAGES["extract"].outputs,
    log:
        "logs/extract/{source}.log",
    benchmark:
        "logs/benchmarks/extract/{source}.tsv"
    priority: flow.DATA_PRIORITY
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        settings=STAGES["extract"].settings,
        code=STAGES["extract"].code,
    shell:
        "mtlpar extract --config $CONFIG_FILE --source {wildcards.source}"
        " --jobs {threads} > {log} 2>&1"
