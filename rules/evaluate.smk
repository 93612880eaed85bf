# Test one model on the test sets of all sources.
rule evaluate:
    input:
        model=FILES.model("{model}"),
        packs=[FILES.pack_manifest(source, "test") for source in CONFIG.sources],
    output:
        metrics=[FILES.metrics("{model}", source) for source in CONFIG.sources],
        predictions=[FILES.predictions("{model}", source) for source in CONFIG.sources],
    log:
        "logs/evaluate/{model}.log",
    benchmark:
        "logs/benchmarks/evaluate/{model}.tsv"
    conda:
        "../envs/train-cpu.yaml"
    params:
        settings=flow.rule_settings(CONFIG.evaluate, CONFIG.seed, CONFIG.sources),
        code=flow.code_digest("mtlpar.evaluate.stage"),
    shell:
        "mtlpar evaluate --config $CONFIG_FILE --model {wildcards.model} > {log} 2>&1"
