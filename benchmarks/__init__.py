"""Speed and memory, measured; see RESULTS.md."""
