"""The file lists of public repositories that hold parts."""

from __future__ import annotations

LCM_LORA_LISTING = """
README.md image.png lcm_sdv1-5_lora.png pytorch_lora_weights.safetensors .gitattributes
"""
LCM_LORA = LCM_LORA_LISTING.split()

LIGHTNING_LISTING = """
.gitattributes LICENSE.md README.md sdxl_lightning_samples.jpg comfyui/sdxl_lightning_workflow_full.json
comfyui/sdxl_lightning_workflow_lora.json sdxl_lightning_1step_unet_x0.safetensors
sdxl_lightning_1step_x0.safetensors sdxl_lightning_2step.safetensors sdxl_lightning_2step_lora.safetensors
sdxl_lightning_2step_unet.safetensors sdxl_lightning_4step.safetensors sdxl_lightning_4step_lora.safetensors
sdxl_lightning_4step_unet.safetensors sdxl_lightning_8step.safetensors sdxl_lightning_8step_lora.safetensors
sdxl_lightning_8step_unet.safetensors
"""
LIGHTNING = LIGHTNING_LISTING.split()

CANNY_LISTING = """
.gitattributes README.md config.json diffusion_pytorch_model.bin diffusion_pytorch_model.safetensors images/bird.png
images/bird_canny.png images/bird_canny_out.png sd.png
"""
CANNY = CANNY_LISTING.split()

TAESD_LISTING = """
.gitattributes README.md config.json diffusion_pytorch_model.bin diffusion_pytorch_model.safetensors
taesd_decoder.pth taesd_decoder.safetensors taesd_encoder.pth taesd_encoder.safetensors
"""
TAESD = TAESD_LISTING.split()

FT_MSE_LISTING = """
README.md config.json diffusion_pytorch_model.bin diffusion_pytorch_model.safetensors
"""
FT_MSE = FT_MSE_LISTING.split()

IP_ADAPTER_LISTING = """
.gitattributes README.md fig1.png models/image_encoder/config.json models/image_encoder/model.safetensors
models/image_encoder/pytorch_model.bin models/ip-adapter-full-face_sd15.bin
models/ip-adapter-full-face_sd15.safetensors models/ip-adapter-plus-face_sd15.bin
models/ip-adapter-plus-face_sd15.safetensors models/ip-adapter-plus_sd15.bin models/ip-adapter-plus_sd15.safetensors
models/ip-adapter_sd15.bin models/ip-adapter_sd15.safetensors models/ip-adapter_sd15_light.bin
models/ip-adapter_sd15_light.safetensors models/ip-adapter_sd15_light_v11.bin models/ip-adapter_sd15_vit-G.bin
models/ip-adapter_sd15_vit-G.safetensors sdxl_models/image_encoder/config.json
sdxl_models/image_encoder/model.safetensors sdxl_models/image_encoder/pytorch_model.bin
sdxl_models/ip-adapter-plus-face_sdxl_vit-h.bin sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors
sdxl_models/ip-adapter-plus_sdxl_vit-h.bin sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors
sdxl_models/ip-adapter_sdxl.bin sdxl_models/ip-adapter_sdxl.safetensors sdxl_models/ip-adapter_sdxl_vit-h.bin
sdxl_models/ip-adapter_sdxl_vit-h.safetensors
"""
IP_ADAPTER = IP_ADAPTER_LISTING.split()

FACE_ID_LISTING = """
README.md ip-adapter-faceid_sd15.bin ip-adapter-faceid_sd15_lora.safetensors
"""
FACE_ID = FACE_ID_LISTING.split()

CONCEPT_LISTING = """
README.md learned_embeds.bin token_identifier.txt type_of_concept.txt concept_images/0.jpeg
"""
CONCEPT = CONCEPT_LISTING.split()

SD15_EMBEDDING_LISTING = """
README.md learned_embeds.bin learned_embeds.safetensors
"""
SD15_EMBEDDING = SD15_EMBEDDING_LISTING.split()

UPSCALER_LISTING = """
README.md RealESRGAN_x4plus.safetensors
"""
UPSCALER = UPSCALER_LISTING.split()

PICKLED_UPSCALER_LISTING = """
README.md RealESRGAN_x2.pth RealESRGAN_x4.pth RealESRGAN_x8.pth
"""
PICKLED_UPSCALER = PICKLED_UPSCALER_LISTING.split()

WEIGHTS = "diffusion_pytorch_model.safetensors"
