"""Studies: what the paper measures beside accuracy."""

from mixonomy.studies.taxonomy import Cost, Layer, Role, Taxonomy, taxonomy

__all__ = ["Cost", "Layer", "Role", "Taxonomy", "taxonomy"]
