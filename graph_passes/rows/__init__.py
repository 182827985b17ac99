"""What row demand is made of: selections, where they start, how they pass an operator, and the gathers they end as."""
