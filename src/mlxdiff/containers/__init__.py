"""What picture files hold beside their pixels, and how large they are: found without decoding a pixel.

png            texts in the chunks of PNG
jpeg_webp_gif  texts and packets in the other formats
exif           the comment in EXIF
xmp            the packet that says where a picture comes from

What the texts mean is the business of metadata/.
"""
