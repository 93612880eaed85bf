# Read native files into columns. With extract.shares above one, as many jobs, perhaps on other
# nodes, read a share of the pieces each; the job of the source then only gathers them.
rule extract_share:
    input:
        FILES.raw_manifest("{source}"),
    output:
        FILES.extracted_share("{source}", "{share}"),
    log:
        "logs/extract/{source}-{share}.log",
    benchmark:
        "logs/benchmarks/extract/{source}-{share}.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        settings=flow.extract_settings(CONFIG),
        code=lambda wildcards: flow.reader_digest(CONFIG, wildcards.source),
    shell:
        "mtlpar extract --config $CONFIG_FILE --source {wildcards.source}"
        " --share {wildcards.share} --jobs {threads} > {log} 2>&1"


rule extract:
    input:
        FILES.raw_manifest("{source}"),
        lambda wildcards: flow.extract_shares(CONFIG, wildcards.source),
    output:
        manifest=FILES.extracted_manifest("{source}"),
    log:
        "logs/extract/{source}.log",
    benchmark:
        "logs/benchmarks/extract/{source}.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        settings=flow.extract_settings(CONFIG),
        code=lambda wildcards: flow.reader_digest(CONFIG, wildcards.source),
    shell:
        "mtlpar extract --config $CONFIG_FILE --source {wildcards.source}"
        " --jobs {threads} > {log} 2>&1"
