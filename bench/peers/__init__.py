"""edgeproxy side by side with other proxies: processes, load, figures, report."""
