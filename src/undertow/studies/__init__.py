"""Studies: one folder each, all made of the instruments below, every result a Finding."""
