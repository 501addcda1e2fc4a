"""Names the numbers of JSON files in the words of the page."""

TERMS = {
    "map": "mAP",
    "auc": "AUC",
    "d_prime": "d'",
    "top_5_accuracy": "top 5",
    "mae_audio": "audio reconstruction",
    "mae_image": "image reconstruction",
    "nce": "contrastive, nats",
    "contrast_accuracy": "right pairs in a batch",
    "average_precision": "AP",
    "damaged_clips": "damaged clips",
    "classes_left_out": "classes without a clip",
    "classes_without_auc": "classes without AUC",
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "median_rank": "median rank",
}
