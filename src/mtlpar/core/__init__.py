"""What every stage shares: fields, columns, units, files, ledgers, names of outputs."""
