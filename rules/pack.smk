# Write train, val and test of one source as shuffled ADIOS2 packs. A .bp is a folder, in which
# Snakemake does not see changes: later rules depend on the manifests, which are written last.
rule pack:
    input:
        FILES.extracted_manifest("{source}"),
        FILES.splits("{source}"),
        FILES.references("{source}"),
    output:
        packs=[directory(FILES.pack("{source}", split)) for split in SPLITS],
        manifests=[FILES.pack_manifest("{source}", split) for split in SPLITS],
    log:
        "logs/pack/{source}.log",
    benchmark:
        "logs/benchmarks/pack/{source}.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        settings=flow.rule_settings(CONFIG.pack, CONFIG.seed),
        code=flow.code_digest("mtlpar.pack.stage"),
    shell:
        "mtlpar pack --config $CONFIG_FILE --source {wildcards.source}"
        " --jobs {threads} > {log} 2>&1"
