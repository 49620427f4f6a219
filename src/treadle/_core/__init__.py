"""Words: settings, outcomes, chunks, contexts, the register of what lives. Starts nothing."""
