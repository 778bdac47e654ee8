"""Queries and candidates out of published data sets: a function for each family, `(task, data) -> TaskData`."""

LOADERS = {
    "image_cls": "image:image_to_text",
    "image_i2t": "image:image_to_text",
    "image_qa": "image:image_question",
    "image_t2i": "image:text_to_image",
    "image_i2i_vg": "image:image_to_image",
    "video_classification": "video_classes:classes_of_dataset",
    "ssv2": "video_classes:classes_of_row",
    "msrvtt": "video_retrieval:described_videos",
    "msvd": "video_retrieval:described_videos",
    "didemo": "video_retrieval:described_videos",
    "vatex": "video_retrieval:described_videos",
    "youcook2": "video_retrieval:described_videos",
    "moment_retrieval": "moments:moments_of_video",
    "momentseeker": "moments:momentseeker",
    "mvbench": "video_questions:mvbench",
    "videomme": "video_questions:videomme",
    "nextqa": "video_questions:nextqa",
    "egoschema": "video_questions:egoschema",
    "activitynetqa": "video_questions:activitynetqa",
    "vidore": "pages:pages",
    "visrag": "pages:pages",
    "mbeir": "mmsearch.evaluation.mbeir.loader:pool_search",
}
"""Family, named as in the reference, to `module:function`; a module without dots is one of this package."""
