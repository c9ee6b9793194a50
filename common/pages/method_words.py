"""What each explanation method is called on a page, and what it does, in a line for clinicians."""

from html import escape

METHODS = {
    "evidence": (
        "The model's own map",
        "The very parts that the model adds up to its answer; nothing is estimated afterwards.",
    ),
    "rollout": (
        "Attention rollout",
        "Where attention went, layer by layer; it does not know for which answer.",
    ),
    "grad-cam": (
        "Grad-CAM",
        "Features that raise the answer, weighted by how much they raise it.",
    ),
    "grad-cam-plus-plus": (
        "Grad-CAM++",
        "As Grad-CAM, with weights that do justice to several places at once.",
    ),
    "gradient": (
        "Gradient",
        "How sensitive the answer is to each pixel as it is; noisy by nature.",
    ),
    "gradient-projected": (
        "Gradient, slow waves",
        "The gradient without what changes from pixel to pixel, where pictures of this kind hold "
        "nothing.",
    ),
    "integrated-gradients": (
        "Integrated gradients",
        "How each pixel's change adds up on the way from a blurred picture to this one.",
    ),
    "integrated-gradients-smoothed": (
        "Integrated gradients, smoothed",
        "The mean of integrated gradients to noisy copies of the picture.",
    ),
    "integrated-gradients-projected": (
        "Integrated gradients, slow waves",
        "Integrated gradients without what changes from pixel to pixel; what is cut off is missing "
        "from its sum.",
    ),
    "smooth-grad": (
        "SmoothGrad",
        "How sensitive the answer is to each pixel, averaged over noisy copies.",
    ),
    "gradient-shap": (
        "GradientSHAP",
        "Each pixel's expected share of the answer against other pictures.",
    ),
    "gradient-shap-projected": (
        "GradientSHAP, slow waves",
        "GradientSHAP without what changes from pixel to pixel.",
    ),
    "deep-lift": (
        "DeepLIFT",
        "Differences from a blurred picture, passed back layer by layer; approximate on this kind "
        "of network.",
    ),
    "lrp": (
        "Relevance propagation",
        "The answer, passed back layer by layer so that nothing is lost.",
    ),
    "occlusion": (
        "Occlusion",
        "How much the answer falls when a place is covered.",
    ),
    "lime": (
        "LIME",
        "A simple model of the answer, fitted to pictures with places taken out.",
    ),
}


def title_of(method: str) -> str:
    """Return a method's title, fit for HTML; a method that is not known here keeps its name."""
    return METHODS[method][0] if method in METHODS else escape(method)


def line_of(method: str) -> str:
    """Return what a method does, "" for one that is not known here."""
    return METHODS[method][1] if method in METHODS else ""
