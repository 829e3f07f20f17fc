"""From labelled files to arrays: manifests, importers, stores of features, scenarios."""
