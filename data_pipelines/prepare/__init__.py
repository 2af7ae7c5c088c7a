"""From official archives to what the sources read, and tiny twins of the data sets."""
