"""Any image-text checkpoint whose class transformers has."""
