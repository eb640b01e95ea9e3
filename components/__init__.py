"""The steps of the pipeline, one module each: `run(settings, inputs, folder, tracker) -> Facts` fills a folder.
`components.execute` makes the artifact of it."""
