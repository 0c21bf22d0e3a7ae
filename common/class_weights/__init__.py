"""Weighs classes for co-training on imbalanced classes.

Zhang et al., *Double-Mix Pseudo-Label Framework: Enhancing Semi-Supervised Segmentation on Category-Imbalanced CT
Volumes*, Int. J. Computer Assisted Radiology and Surgery. DisW and DifW are of Wang and Li, *DHC: Dual-debiased
Heterogeneous Co-training Framework*, MICCAI 2023; CDifW and CDisW add the confidence of the network.
"""

from .functional import (
    ClassStatistics,
    WeightScale,
    class_dice,
    class_information,
    class_shares,
    class_statistics,
    distribution_weight,
    learning_speed,
    learning_terms,
    limit_weight,
    loss_weight,
    most_probable,
    scale_weight,
)
from .modules import (
    CLASS_WEIGHTS,
    ClassConfidence,
    ClassWeight,
    ConfidenceDifficultyWeight,
    ConfidenceDistributionWeight,
    DifficultyWeight,
    DistributionWeight,
    make_class_weight,
)

__all__ = [
    "CLASS_WEIGHTS",
    "ClassConfidence",
    "ClassStatistics",
    "ClassWeight",
    "ConfidenceDifficultyWeight",
    "ConfidenceDistributionWeight",
    "DifficultyWeight",
    "DistributionWeight",
    "WeightScale",
    "class_dice",
    "class_information",
    "class_shares",
    "class_statistics",
    "distribution_weight",
    "learning_speed",
    "learning_terms",
    "limit_weight",
    "loss_weight",
    "make_class_weight",
    "most_probable",
    "scale_weight",
]
