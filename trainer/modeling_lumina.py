"""Lumina's decoder for the `transformers` library: depth-routed blocks (mixture of depths), mixtures of experts with extras, or both.

This file lies beside the exported weights and is loaded with `trust_remote_code=True`; it needs torch and transformers only. It is
for inference and fine-tuning with the ordinary tools, and decides depth routing causally, by each block's predictor: no token is
chosen by what comes after it.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class LuminaConfig(PretrainedConfig):
    """Shape of the model; the names are Llama's and Qwen3-MoE's where these have one."""

    model_type = "lumina"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        qk_norm=False,
        num_experts=0,
        num_experts_per_tok=2,
        moe_intermediate_size=0,
        shared_expert_size=0,
        balance_bias_rate=0.0,
        routed_layers=(),
        predictor_size=0,
        use_cache=True,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = hidden_size // num_attention_heads
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.max_position_embeddings = max_position_embeddings
        self.qk_norm = qk_norm
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.shared_expert_size = shared_expert_size
        self.balance_bias_rate = balance_bias_rate
        self.routed_layers = list(routed_layers)
        self.predictor_size = predictor_size
        self.use_cache = use_cache
        kwargs.pop("head_dim", None)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


class LuminaRMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rotate(x, cos, sin):
    """Turn heads x [B, H, T, d] by their positions; the two halves of a head are its pairs."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


class LuminaAttention(nn.Module):
    """Grouped-query attention, whose cache also remembers which tokens entered."""

    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.d_head = layer, config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.q_norm = LuminaRMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = LuminaRMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x, rotary, visible, entered, cache):
        """`visible` [B, 1, T, S]: which of all S tokens each new one may see; `entered` [B, T]: which of the new ones are in this block."""
        shape = (*x.shape[:2], -1, self.d_head)
        q = rotate(self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2), *rotary)
        k = rotate(self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2), *rotary)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        if entered is None:
            if cache is not None:
                k, v = cache.update(k, v, self.layer)
        else:
            # The mark of who entered is one more channel of the keys, so that any cache keeps it with them.
            mark = entered.to(k.dtype)[:, None, :, None].expand(-1, k.shape[1], -1, 1)
            k = torch.cat((k, mark), dim=-1)
            if cache is not None:
                k, v = cache.update(k, v, self.layer)
            k, mark = k[..., :-1], k[:, :1, None, :, -1] > 0
            # Every token sees itself: a row without any would be no number.
            itself = torch.eye(k.shape[2], dtype=torch.bool, device=k.device)[-x.shape[1] :]
            visible = (visible & mark) | itself
        k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.o_proj(y.transpose(1, 2).reshape(x.shape))


class LuminaMLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width, inner):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LuminaMoE(nn.Module):
    """Each token passes through the experts that its router prefers, weighted by the router's softmax over them."""

    def __init__(self, config):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(LuminaMLP(config.hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts))
        self.shared_expert = LuminaMLP(config.hidden_size, config.shared_expert_size) if config.shared_expert_size else None
        self.bias_rate = config.balance_bias_rate
        if self.bias_rate:
            self.register_buffer("balance_votes", torch.zeros(config.num_experts, dtype=torch.int32))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        logits = self.gate(flat).float()
        preferred = logits.softmax(-1) + self.bias_rate * self.balance_votes if self.bias_rate else logits
        chosen = preferred.topk(self.top_k, dim=-1).indices
        weights = logits.gather(-1, chosen).softmax(-1).to(x.dtype)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            token, place = (chosen == number).nonzero(as_tuple=True)
            if len(token):
                out = out.index_add(0, token, expert(flat[token]) * weights[token, place, None])
        if self.shared_expert is not None:
            out = out + self.shared_expert(flat)
        return out.view_as(x)


class LuminaDepthRouter(nn.Module):
    """Weighs a token's update (`score`), and tells from the token alone whether it enters (`hidden`, `decide`)."""

    def __init__(self, config):
        super().__init__()
        self.score = nn.Linear(config.hidden_size, 1, bias=False)
        self.hidden = nn.Linear(config.hidden_size, config.predictor_size)
        self.decide = nn.Linear(config.predictor_size, 1)

    def forward(self, x):
        return self.decide(F.silu(self.hidden(x))).squeeze(-1) > 0, self.score(x).float().sigmoid().to(x.dtype)


class LuminaDecoderLayer(nn.Module):
    """Attention and a feed-forward block on the residual stream; a depth-routed one changes only the tokens that enter."""

    def __init__(self, config, layer):
        super().__init__()
        self.self_attn = LuminaAttention(config, layer)
        self.mlp = LuminaMoE(config) if config.num_experts else LuminaMLP(config.hidden_size, config.intermediate_size)
        self.input_layernorm = LuminaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LuminaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.depth_router = LuminaDepthRouter(config) if layer in config.routed_layers else None

    def forward(self, x, rotary, visible, cache):
        entered, weight = (None, None) if self.depth_router is None else self.depth_router(x)
        y = x + self.self_attn(self.input_layernorm(x), rotary, visible, entered, cache)
        y = y + self.mlp(self.post_attention_layernorm(y))
        return y if entered is None else torch.where(entered.unsqueeze(-1), x + (y - x) * weight, x)


class LuminaPreTrainedModel(PreTrainedModel):
    """What `transformers` needs to know to load and initialise."""

    config_class = LuminaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = False
    _no_split_modules = ["LuminaDecoderLayer"]
    _supports_sdpa = True

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.data.zero_()
        if isinstance(module, LuminaRMSNorm):
            module.weight.data.fill_(1.0)
        if isinstance(module, LuminaMoE) and module.bias_rate:
            module.balance_votes.zero_()


class LuminaModel(LuminaPreTrainedModel):
    """Embedding, blocks and the last norm."""

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LuminaDecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = LuminaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def forward(self, x, attention_mask, position_ids, cache):
        before = cache.get_seq_length() if cache is not None else 0
        length = x.shape[1]
        if position_ids is None:
            position_ids = torch.arange(before, before + length, device=x.device).unsqueeze(0)
        rotary = self._rotary(position_ids, x.dtype)
        visible = torch.ones(length, before + length, dtype=torch.bool, device=x.device).tril(before)[None, None]
        if attention_mask is not None and attention_mask.dim() == 2:
            seen = attention_mask[:, None, None, :].bool()
            itself = torch.eye(before + length, dtype=torch.bool, device=x.device)[-length:]
            visible = (visible & seen) | itself
        for layer in self.layers:
            x = layer(x, rotary, visible, cache)
        return self.norm(x)

    def _rotary(self, position_ids, dtype):
        d = self.config.head_dim
        frequencies = 1.0 / self.config.rope_theta ** (torch.arange(0, d, 2, dtype=torch.float32, device=position_ids.device) / d)
        angles = (position_ids.float().unsqueeze(-1) * frequencies).unsqueeze(1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


class LuminaForCausalLM(LuminaPreTrainedModel, GenerationMixin):
    """The language model."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = LuminaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        **kwargs,
    ):
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None and not self.training:
            past_key_values = DynamicCache()
        x = self.model(x, attention_mask, position_ids, past_key_values)
        logits = self.lm_head(x[:, -logits_to_keep:] if isinstance(logits_to_keep, int) and logits_to_keep else x)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(logits.device), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
