"""Pictures that steer a run, beside its prompt: what they are found as, what is seen of them, and what they add.

additions         what pictures add to a call of the network, whatever they are
controls          the ControlNets and T2I-Adapters of a request
control_pictures  what a control sees
ip_adapters       which IP-Adapters a request asks for; ip_adapter_files: what their files hold
picture_prompts   what IP-Adapters make of pictures: prompts beside the text; clip_pixels: as an encoder reads them
regions           masks that say where a picture counts
overlays          pictures that lie over the one to start from: control pictures and masks

Knows nothing of the text prompt, of guidance or of the loop.
"""
