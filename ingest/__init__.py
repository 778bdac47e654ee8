"""From disk to items: `scan` finds files, `readers` turn one file into item drafts inside a worker process (`decode`),
`pipeline` embeds and saves them. This package knows files; models and SQL belong to `mmsearch`."""
