# With pack.shares above one, as many jobs, perhaps on other nodes, sort a share of a source each.
rule pack_share:
    input:
        STAGES["pack_share"].inputs,
    output:
        **STAGES["pack_share"].outputs,
    log:
        "logs/pack/{source}-{share}.log",
    benchmark:
        "logs/benchmarks/pack/{source}-{share}.tsv"
    priority: flow.DATA_PRIORITY
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        settings=STAGES["pack_share"].settings,
        code=STAGES["pack_share"].code,
    shell:
        "mtlpar pack --config $CONFIG_FILE --source {wildcards.source}"
        " --share {wildcards.share} --jobs {threads} > {log} 2>&1"


# Write train, val and test of one source as shuffled ADIOS2 packs. A .bp is a folder, in which
# Snakemake does not see changes: later rules depend on the manifests, which are written last.
rule pack:
    input:
        STAGES["pack"].inputs,
    output:
        **STAGES["pack"].outputs,
        folders=[directory(path) for path in STAGES["pack"].folders],
    log:
        "logs/pack/{source}.log",
    benchmark:
        "logs/benchmarks/pack/{source}.tsv"
    priority: flow.DATA_PRIORITY
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        settings=STAGES["pack"].settings,
        code=STAGES["pack"].code,
    shell:
        "mtlpar pack --config $CONFIG_FILE --source {wildcards.source}"
        " --jobs {threads} > {log} 2>&1"
