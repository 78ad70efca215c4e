"""Who may call the service: by which names, from which pages, with which tokens; and the audit of writes."""
