from seqlab.durable import replace_file, replace_link, sync_folder, write_file  # noqa: F401
