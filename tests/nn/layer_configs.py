"""Small configurations of transformers for every layer that becomes one operator."""

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 100}
IMAGES = {**SIZES, "image_size": 32, "patch_size": 8}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 99, "decoder_start_token_id": 1}
HEADS = {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_ffn_dim": 100, "decoder_ffn_dim": 100}
SEQ2SEQ = {"d_model": 48, "encoder_layers": 2, "decoder_layers": 2, **HEADS, **IDS, "vocab_size": 100}
WHISPER = {**SEQ2SEQ, "num_mel_bins": 16}
WORDS = {**SIZES, **IDS, "vocab_size": 100, "max_position_embeddings": 40}
WAV2VEC2 = {**SIZES, "conv_dim": [16] * 7}
LAYERS = {  # the class, and its configuration
    "ViTLayer": ("ViTConfig", IMAGES),
    "DeiTLayer": ("DeiTConfig", {**IMAGES, "hidden_act": "relu"}),
    "ViTMAELayer": ("ViTMAEConfig", IMAGES),
    "ViTMSNLayer": ("ViTMSNConfig", IMAGES),
    "ASTLayer": ("ASTConfig", SIZES),
    "IJepaLayer": ("IJepaConfig", IMAGES),
    "PixioLayer": ("PixioConfig", IMAGES),
    "VivitLayer": ("VivitConfig", SIZES),
    "DPTViTLayer": ("DPTConfig", IMAGES),
    "YolosLayer": ("YolosConfig", SIZES),
    "AltCLIPEncoderLayer": ("AltCLIPVisionConfig", IMAGES),
    "CLIPEncoderLayer": ("CLIPVisionConfig", IMAGES),  # quick GELU
    "CLIPSegEncoderLayer": ("CLIPSegVisionConfig", IMAGES),
    "ChineseCLIPVisionLayer": ("ChineseCLIPVisionConfig", IMAGES),
    "GitVisionEncoderLayer": ("GitVisionConfig", IMAGES),
    "GraniteDoclingEncoderLayer": ("GraniteDoclingVisionConfig", IMAGES),
    "Idefics2EncoderLayer": ("Idefics2VisionConfig", IMAGES),
    "Idefics3EncoderLayer": ("Idefics3VisionConfig", IMAGES),
    "Kosmos2VisionEncoderLayer": ("Kosmos2VisionConfig", IMAGES),
    "MetaClip2EncoderLayer": ("MetaClip2VisionConfig", IMAGES),
    "OwlViTEncoderLayer": ("OwlViTVisionConfig", IMAGES),
    "Owlv2EncoderLayer": ("Owlv2VisionConfig", IMAGES),
    "Siglip2EncoderLayer": ("Siglip2VisionConfig", SIZES),
    "SiglipEncoderLayer": ("SiglipVisionConfig", IMAGES),
    "SmolVLMEncoderLayer": ("SmolVLMVisionConfig", IMAGES),
    "XCLIPEncoderLayer": ("XCLIPTextConfig", WORDS),
    "BlipEncoderLayer": ("BlipVisionConfig", IMAGES),
    "Blip2EncoderLayer": ("Blip2VisionConfig", IMAGES),
    "InstructBlipEncoderLayer": ("InstructBlipVisionConfig", IMAGES),
    "Dinov2Layer": ("Dinov2Config", {**IMAGES, "mlp_ratio": 2}),
    "Dinov2WithRegistersLayer": ("Dinov2WithRegistersConfig", {**IMAGES, "use_swiglu_ffn": True}),
    "DINOv3ViTLayer": ("DINOv3ViTConfig", {**IMAGES, "use_gated_mlp": True}),
    "EsmLayer": ("EsmConfig", {**WORDS, "position_embedding_type": "rotary"}),
    "RadioLayer": ("RadioConfig", IMAGES),
    "AudioFlamingo3EncoderLayer": ("AudioFlamingo3EncoderConfig", SIZES),
    "BlenderbotEncoderLayer": ("BlenderbotConfig", SEQ2SEQ),
    "M2M100EncoderLayer": ("M2M100Config", SEQ2SEQ),
    "MBartEncoderLayer": ("MBartConfig", SEQ2SEQ),
    "PegasusEncoderLayer": ("PegasusConfig", SEQ2SEQ),
    "Qwen2AudioEncoderLayer": ("Qwen2AudioEncoderConfig", WHISPER),
    "Speech2TextEncoderLayer": ("Speech2TextConfig", SEQ2SEQ),
    "VoxtralEncoderLayer": ("VoxtralEncoderConfig", SIZES),
    "WhisperEncoderLayer": ("WhisperConfig", WHISPER),
    "BartEncoderLayer": ("BartConfig", SEQ2SEQ),
    "BlenderbotSmallEncoderLayer": ("BlenderbotSmallConfig", SEQ2SEQ),
    "MarianEncoderLayer": ("MarianConfig", SEQ2SEQ),
    "PLBartEncoderLayer": ("PLBartConfig", SEQ2SEQ),
    "TimeSeriesTransformerEncoderLayer": ("TimeSeriesTransformerConfig", {**SEQ2SEQ, "prediction_length": 4}),
    "Data2VecAudioEncoderLayer": ("Data2VecAudioConfig", WAV2VEC2),
    "HubertEncoderLayer": ("HubertConfig", WAV2VEC2),
    "SEWEncoderLayer": ("SEWConfig", SIZES),
    "UniSpeechEncoderLayer": ("UniSpeechConfig", WAV2VEC2),
    "UniSpeechSatEncoderLayer": ("UniSpeechSatConfig", WAV2VEC2),
    "Wav2Vec2EncoderLayer": ("Wav2Vec2Config", WAV2VEC2),
    "AltRobertaLayer": ("AltCLIPTextConfig", WORDS),
    "BridgeTowerTextLayer": ("BridgeTowerTextConfig", WORDS),
    "ErnieLayer": ("ErnieConfig", WORDS),
    "LayoutLMLayer": ("LayoutLMConfig", WORDS),
    "MarkupLMLayer": ("MarkupLMConfig", WORDS),
    "RoCBertLayer": ("RoCBertConfig", WORDS),
    "BertGenerationLayer": ("BertGenerationConfig", WORDS),
    "ElectraLayer": ("ElectraConfig", {**WORDS, "embedding_size": 32}),
    "RobertaPreLayerNormLayer": ("RobertaPreLayerNormConfig", WORDS),
    "XLMRobertaXLLayer": ("XLMRobertaXLConfig", WORDS),
    "AlbertLayer": ("AlbertConfig", {**WORDS, "embedding_size": 32}),
}

ROTARY = {"DINOv3ViTLayer": 2, "EsmLayer": 0}  # which have positions, and how many of the first tokens have none
WITHOUT_MASK = ("Blip2EncoderLayer", "BlipEncoderLayer", "DPTViTLayer", "InstructBlipEncoderLayer", "YolosLayer")
