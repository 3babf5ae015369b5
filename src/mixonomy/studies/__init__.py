"""Studies: what the paper measures beside accuracy."""

from mixonomy.studies.taxonomy import ROLES, Cost, Group, Layer, Role, Taxonomy, taxonomy

__all__ = ["ROLES", "Cost", "Group", "Layer", "Role", "Taxonomy", "taxonomy"]
